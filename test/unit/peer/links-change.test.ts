// What counts as another network.
import { expect, test } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import { parseCidr } from "../../../src/base/ip.ts";
import type { Links } from "../../../src/net/links.ts";
import { linksChange } from "../../../src/peer/links-change.ts";

function links(addresses: Readonly<Record<string, string>>, uplink: string | null = "eth0"): Links {
  return {
    uplinks: uplink === null ? [] : [{ interface: uplink, family: 4, gateway: null, metric: 100 }],
    connected: Object.entries(addresses).map(([prefix, name]) => ({
      interface: name,
      prefix: parseCidr(`${prefix}/32`) ?? fail(),
    })),
    addresses: Object.entries(addresses).map(([address, name]) => ({
      interface: name,
      address: address as IpAddress,
      prefixLength: 24,
      scope: "global",
      temporary: false,
      deprecated: false,
      tentative: false,
    })),
    delegated: [],
    mtus: new Map(),
  };
}

function fail(): never {
  throw new Error("a constant of the test is wrong");
}

const HOME = links({ "192.168.1.2": "eth0" });

test("linksChange() sees nothing where nothing changed", () => {
  expect(linksChange(HOME, links({ "192.168.1.2": "eth0" }))).toBeNull();
});

test("linksChange() says of an address that came that the network is another, and of one that went that what was open is gone", () => {
  expect(linksChange(HOME, links({ "192.168.1.2": "eth0", "192.168.1.3": "eth0" }))).toBe("changed");
  expect(linksChange(HOME, links({}, null))).toBe("moved");
  expect(linksChange(HOME, links({ "192.168.1.3": "eth0" }))).toBe("moved");
  expect(linksChange(links({}, null), HOME)).toBe("changed");
});

test("linksChange() does not take a container's bridge that goes for a move", () => {
  const withBridge = links({ "192.168.1.2": "eth0", "172.17.0.1": "docker0" });
  expect(linksChange(withBridge, HOME)).toBe("changed");
});

test("linksChange() sees another way out", () => {
  expect(linksChange(HOME, links({ "192.168.1.2": "eth0" }, "wlan0"))).toBe("changed");
});
