import { describe, expect, test } from "bun:test";
import type { Cidr, Endpoint, IpAddress } from "../../../src/base/ip.ts";
import type { Links } from "../../../src/net/links.ts";
import type { PortMapper, PortMapperOptions, PortMapping } from "../../../src/net/port-mapping/port-mapping.ts";
import { RouterPort, routerOf } from "../../../src/peer/router-port.ts";

const ip = (text: string): IpAddress => text as IpAddress;
const RANGES = ["10.77.0.0/16" as Cidr];
const NONCE = new Uint8Array(12);

function links(gateway: string, own: string, prefixLength = 24): Links {
  return {
    uplinks: [{ interface: "eth0", family: 4, gateway: ip(gateway), metric: 1 }],
    connected: [],
    addresses: [
      {
        interface: "eth0",
        address: ip(own),
        prefixLength,
        scope: "global",
        temporary: false,
        deprecated: false,
        tentative: false,
      },
    ],
    delegated: [],
    mtus: new Map(),
  };
}

describe("routerOf()", () => {
  test("is the neighbour that the default route names", () => {
    expect(routerOf(links("192.168.1.1", "192.168.1.10"), RANGES)).toEqual({
      gateway: ip("192.168.1.1"),
      localAddress: ip("192.168.1.10"),
    });
  });

  test("is nobody where the LAN names an address of the internet, another network's, or the tunnel's own", () => {
    expect(routerOf(links("203.0.113.80", "203.0.113.7"), RANGES)).toBeNull();
    expect(routerOf(links("203.0.113.80", "192.168.1.10"), RANGES)).toBeNull();
    expect(routerOf(links("192.168.2.1", "192.168.1.10"), RANGES)).toBeNull();
    expect(routerOf(links("10.77.0.1", "10.77.0.2", 16), RANGES)).toBeNull();
    expect(routerOf({ ...links("192.168.1.1", "192.168.1.10"), uplinks: [] }, RANGES)).toBeNull();
  });
});

/** Mappers that do what the test says, and what was asked of them. */
function machine(options: { off?: boolean } = {}) {
  const state = { current: null as PortMapping | null, isAsked: false, seen: null as IpAddress | null };
  const events: string[] = [];
  let changes = 0;
  const mapPort = ({ gateway, localAddress, internalPort }: PortMapperOptions): PortMapper => {
    events.push(`ask ${gateway} for ${localAddress}:${internalPort}`);
    return {
      get current() {
        return state.current;
      },
      get isAsked() {
        return state.isAsked;
      },
      refresh: () => void events.push(`refresh ${gateway}`),
      [Symbol.asyncDispose]: () => Promise.resolve(void events.push(`give back to ${gateway}`)),
    };
  };
  const port = new RouterPort(options.off === true ? null : { mapPort, nonce: NONCE }, {
    port: 51_820,
    ranges: RANGES,
    publicAddress: () => state.seen,
    onChange: () => void changes++,
  });
  return { port, state, events };
}

const MAPPED: Endpoint = { address: ip("198.51.100.1"), port: 51_820 };

describe("RouterPort", () => {
  test("asks the router of the moment, once, and gives back at the one before", async () => {
    const { port, events } = machine();
    expect(port.view).toEqual({ state: "asking", router: null });
    port.follow(links("192.168.1.1", "192.168.1.10"));
    port.follow(links("192.168.1.1", "192.168.1.10"));
    port.follow(links("192.168.7.1", "192.168.7.2"));
    port.refresh();
    port.follow(links("203.0.113.1", "203.0.113.7"));
    expect(port.view).toEqual({ state: "no-router" });
    port.follow(links("192.168.7.1", "192.168.7.2"));
    await port[Symbol.asyncDispose]();
    port.follow(links("192.168.1.1", "192.168.1.10"));
    expect(events).toEqual([
      "ask 192.168.1.1 for 192.168.1.10:51820",
      "give back to 192.168.1.1",
      "ask 192.168.7.1 for 192.168.7.2:51820",
      "refresh 192.168.7.1",
      "give back to 192.168.7.1",
      "ask 192.168.7.1 for 192.168.7.2:51820",
      "give back to 192.168.7.1",
    ]);
  });

  test("tells what came of it, and offers only what is an address of ours", () => {
    const { port, state, events } = machine();
    const router = ip("192.168.1.1");
    port.follow(links(router, "192.168.1.10"));
    expect(port.view).toEqual({ state: "asking", router });
    state.isAsked = true;
    expect(port.view).toEqual({ state: "none", router });
    state.current = { protocol: "upnp", external: MAPPED };
    expect(port.view).toEqual({ state: "mapped", router, protocol: "upnp", external: MAPPED });
    expect(port.endpoints).toEqual([MAPPED]);
    state.seen = ip("203.0.113.7");
    expect(port.view).toEqual({ state: "elsewhere", router, external: MAPPED });
    expect(port.endpoints).toEqual([]);
    port.follow(links(router, "192.168.1.10"));
    expect(events.at(-1)).toBe("refresh 192.168.1.1");
  });

  test("asks nobody where a person does not want it", async () => {
    const { port, events } = machine({ off: true });
    port.follow(links("192.168.1.1", "192.168.1.10"));
    expect(port.view).toEqual({ state: "off" });
    await port[Symbol.asyncDispose]();
    expect(events).toEqual([]);
  });
});
