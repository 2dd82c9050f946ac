import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import { DiscoveryFailed } from "../../../src/net/discovery/discovery.ts";
import type { Links } from "../../../src/net/links.ts";
import type { PortMapper, PortMapperOptions, PortMapping } from "../../../src/net/port-mapping/port-mapping.ts";
import type { WireGuardDevice } from "../../../src/net/wg/device.ts";
import { openPaths, type Paths } from "../../../src/peer/paths.ts";
import type { PathKind } from "../../../src/peer/path-info.ts";
import type { PathSession } from "../../../src/peer/peer-path.ts";
import type { MachineMessage } from "../../../src/proto/control.ts";
import type { MachineId, WireGuardKey } from "../../../src/proto/keys.ts";
import type { Candidate } from "../../../src/proto/path.ts";
import { FakeBridge, FakeDiscovery, FakeRedirect, SILENT } from "./fake-discovery.ts";

const KEY = `${"A".repeat(42)}A`;
const PEER = "peer" as MachineId;
const stack: Paths[] = [];

beforeEach(() => void jest.useFakeTimers());
afterEach(async () => {
  for (const paths of stack.splice(0)) await paths[Symbol.asyncDispose]();
  jest.useRealTimers();
});

async function pass(ms: number): Promise<void> {
  for (let gone = 0; gone < ms; gone += 20) {
    jest.advanceTimersByTime(20);
    for (let i = 0; i < 15; i++) await Promise.resolve();
  }
}

function linksOf(address: string): Links {
  const one = { interface: "eth0", address: address as IpAddress, prefixLength: 24 };
  return {
    uplinks: [{ interface: "eth0", family: 4, gateway: "192.168.1.1" as IpAddress, metric: 1 }],
    connected: [{ interface: "eth0", prefix: "192.168.1.0/24" as Cidr }],
    addresses: [{ ...one, scope: "global", temporary: false, deprecated: false, tentative: false }],
    delegated: [],
    mtus: new Map(),
  };
}

/** A router that maps what the test says. */
function fakeRouter() {
  const router: string[] = [];
  let current: PortMapping | null = null;
  let onChange: (mapping: PortMapping | null) => void = () => undefined;
  const mapPort = (options: PortMapperOptions): PortMapper => {
    router.push("ask");
    ({ onChange } = options);
    return {
      get current() {
        return current;
      },
      isAsked: true,
      refresh: () => void router.push("refresh"),
      [Symbol.asyncDispose]: () => Promise.resolve(void router.push("give back")),
    };
  };
  const map = (mapping: PortMapping | null): void => {
    current = mapping;
    onChange(mapping);
  };
  return { router, map, access: { mapPort, nonce: new Uint8Array(12) } };
}

const stats = { rxBytes: 0, txBytes: 0, rxPackets: 0, txPackets: 0 };

async function opened(
  options: { manual?: string; allowed?: readonly PathKind[]; broken?: boolean; ipv6?: boolean } = {},
) {
  const discovery = new FakeDiscovery();
  const redirect = new FakeRedirect();
  const sent: Extract<MachineMessage, { type: "candidates" }>[] = [];
  const state = {
    links: linksOf("192.168.1.2"),
    counters: () => Promise.resolve(stats),
    online: true,
    ...fakeRouter(),
  };
  const device: WireGuardDevice = {
    apply: () => Promise.resolve(),
    setPeer: () => Promise.resolve(),
    setEndpoint: () => Promise.resolve(),
    removePeer: () => Promise.resolve(),
    stats: () => Promise.resolve([]),
    verify: () => Promise.resolve([]),
    counters: () => state.counters(),
    transfers: () => Promise.resolve(new Map()),
    settings: () => Promise.resolve(null),
    prefixes: () => Promise.resolve(new Map()),
    implementation: () => null,
    reset: () => Promise.resolve(),
  };
  const paths = await openPaths(
    {
      discovery: () => {
        if (options.broken === true) throw new DiscoveryFailed("Cannot share.", { code: "discovery-failed" });
        return Promise.resolve({ mechanism: "nft", open: () => Promise.resolve(discovery) });
      },
      redirect,
      device,
      peerMtus: { apply: () => Promise.resolve() },
      readLinks: () => Promise.resolve(state.links),
      send: (message) => {
        if (message.type === "candidates" && state.online) sent.push(message);
        return state.online;
      },
      canRelay: () => true,
      probeServer: () => undefined,
      stun: () => null,
      router: state.access,
      log: SILENT,
    },
    {
      wireGuardPort: 51_820,
      publicPort: 51_820,
      ranges: [],
      allowed: new Set(options.allowed ?? ["direct", "udp-relay", "wss"]),
      manual: options.manual ?? null,
      guessesPorts: true,
      ipv6: options.ipv6 ?? true,
      onChange: () => undefined,
    },
    new AbortController().signal,
  );
  stack.push(paths);
  return { paths, discovery, redirect, sent, state };
}

function sessionOf(id: number, withKeys = true): PathSession {
  const probe = { sendKey: KEY, receiveKey: KEY, relay: null };
  return {
    peer: PEER,
    peerName: "peer",
    wireGuard: "key" as WireGuardKey,
    allowedIps: [],
    session: { id, peer: PEER, kind: "wireguard", initiator: true, ...(withKeys ? { probe } : {}) },
    bridge: new FakeBridge(),
    living: null,
  };
}

const REMOTE: Candidate[] = [{ kind: "host", endpoint: "192.168.1.3:51820" }];

describe("openPaths()", () => {
  test("tells its candidates once a session is there, with WireGuard's port", async () => {
    const { paths, sent } = await opened();
    await pass(500);
    expect(sent).toEqual([]);
    paths.sync([sessionOf(5)]);
    await pass(200);
    expect(sent).toEqual([
      { type: "candidates", session: 5, round: 1, candidates: [{ kind: "host", endpoint: "192.168.1.2:51820" }] },
    ]);
  });

  test("neither tells nor tries IPv6 where WireGuard cannot be trusted with both families", async () => {
    const six: Candidate = { kind: "host", endpoint: "[2001:db8::3]:51820" };
    for (const ipv6 of [true, false]) {
      const { paths, discovery, sent, state } = await opened({ ipv6 });
      const uplinks = [{ interface: "eth0", family: 6 as const, gateway: null, metric: 1 }];
      state.links = { ...linksOf("2001:db8::2"), uplinks };
      paths.sync([sessionOf(5)]);
      paths.take({ type: "candidates", session: 5, round: 1, candidates: [six] });
      paths.take({ type: "punch", session: 5, round: 1, inMs: 0 });
      await pass(1_000);
      expect(sent[0]?.candidates.length).toBe(ipv6 ? 1 : 0);
      expect(discovery.sent.some(({ to }) => to === six.endpoint)).toBe(ipv6);
    }
  });

  test("names the endpoint that a person forwarded", async () => {
    const { paths, sent } = await opened({ manual: "203.0.113.7:9000" });
    paths.sync([sessionOf(5)]);
    await pass(200);
    expect(sent[0]?.candidates[0]).toEqual({ kind: "manual", endpoint: "203.0.113.7:9000" });
  });

  test("keeps what came before its session, and only so much of it", async () => {
    const { paths, discovery } = await opened();
    for (let id = 100; id < 1_000; id++) paths.take({ type: "punch", session: id, round: 1, inMs: 0 });
    paths.take({ type: "candidates", session: 5, round: 1, candidates: REMOTE });
    paths.take({ type: "punch", session: 5, round: 1, inMs: 500 });
    paths.sync([sessionOf(5)]);
    await pass(1_000);
    expect(discovery.sent.map(({ to }) => to)).toContain("192.168.1.3:51820");
  });

  test("has no path for sessions without keys, and none where no port can be shared", async () => {
    const { paths } = await opened();
    paths.sync([sessionOf(5, false)]);
    expect(paths.view(PEER)).toBeNull();
    const broken = await opened({ broken: true });
    broken.paths.sync([sessionOf(5)]);
    broken.paths.networkChanged();
    broken.paths.take({ type: "punch", session: 5, round: 1, inMs: 0 });
    broken.paths.relayed(PEER);
    await pass(100);
    expect([broken.paths.view(PEER), broken.paths.discoveryPort]).toEqual([null, null]);
  });

  test("opens no port when the WebSocket is all that is allowed", async () => {
    const { paths } = await opened({ allowed: ["wss"] });
    expect(paths.discoveryPort).toBeNull();
  });

  test("searches anew when an address changed, and not when nothing did", async () => {
    const { paths, sent, state } = await opened();
    paths.sync([sessionOf(5)]);
    await pass(200);
    paths.networkChanged();
    await pass(500);
    expect(sent).toHaveLength(1);
    state.links = linksOf("192.168.1.77");
    paths.networkChanged();
    await pass(500);
    expect(sent.at(-1)).toMatchObject({ round: 2, candidates: [{ endpoint: "192.168.1.77:51820" }] });
  });

  test("bug: a change of network that a gathering sees first is a change like any other", async () => {
    const { paths, state } = await opened();
    await pass(200);
    state.links = linksOf("192.168.1.2");
    paths.welcomed();
    await pass(200);
    expect(state.router).toEqual(["ask"]);
    state.links = { ...linksOf("192.168.1.2"), connected: [] };
    expect(state.router).toEqual(["ask"]);
    state.links = { ...state.links, uplinks: [...state.links.uplinks, ...linksOf("192.168.1.2").uplinks] };
    paths.welcomed(); // which gathers
    await pass(200);
    expect(state.router).toEqual(["ask", "refresh"]);
    paths.networkChanged();
    await pass(200);
    expect(state.router).toEqual(["ask", "refresh"]);
  });

  test("tells the port that the router maps, as soon as it does and when it is gone", async () => {
    const { paths, sent, state } = await opened();
    paths.sync([sessionOf(5)]);
    await pass(200);
    const external = { address: "198.51.100.1" as IpAddress, port: 51_820 };
    state.map({ protocol: "pcp", external });
    expect(paths.routerPort).toMatchObject({ state: "mapped", external });
    expect(sent.at(-1)?.candidates).toContainEqual({ kind: "mapped", endpoint: "198.51.100.1:51820" });
    state.map(null);
    expect(sent.at(-1)?.candidates.map(({ kind }) => kind)).toEqual(["host"]);
    await paths[Symbol.asyncDispose]();
    expect(state.router.at(-1)).toBe("give back");
  });

  test("bug: candidates that the server did not get are told as soon as it is back, and not a minute later", async () => {
    const { paths, sent, state } = await opened();
    state.online = false;
    paths.sync([sessionOf(5)]);
    await pass(200);
    expect(sent).toEqual([]);
    state.online = true;
    paths.welcomed();
    expect(sent.map(({ session }) => session)).toEqual([5]);
    await pass(500);
    expect(sent.at(-1)).toMatchObject({ round: 2 }); // and what a new server knows of us is asked for anew
  });

  test("bug: what an earlier process dropped on arrival is let in again, as it may be the path that is taken next", async () => {
    const { redirect } = await opened();
    await pass(20);
    expect(redirect.policy).toMatchObject({ wireGuardPort: 51_820, redirects: [], dropFrom: [] });
  });

  test("forgets a session that is replaced, and stops what it had begun", async () => {
    const { paths, discovery, sent } = await opened();
    paths.sync([sessionOf(5)]);
    paths.take({ type: "candidates", session: 5, round: 1, candidates: REMOTE });
    await pass(200);
    paths.take({ type: "punch", session: 5, round: 1, inMs: 1_000 });
    paths.sync([sessionOf(6)]);
    await pass(3_000);
    expect(discovery.sent).toEqual([]);
    expect(sent.map(({ session }) => session)).toEqual([5, 6]);
    paths.sync([]);
    expect(paths.view(PEER)).toBeNull();
  });

  test("bug: one reading that fails does not end the watch over paths", async () => {
    const { paths, discovery, state } = await opened();
    paths.sync([sessionOf(5)]);
    paths.take({ type: "candidates", session: 5, round: 1, candidates: REMOTE });
    await pass(200);
    state.counters = () => Promise.reject(new Error("no such file"));
    await pass(500);
    state.counters = () => Promise.resolve(stats);
    paths.take({ type: "punch", session: 5, round: 1, inMs: 0 });
    await pass(500);
    expect(discovery.sent.length).toBeGreaterThan(0);
  });

  test("ends, twice, and nothing goes on", async () => {
    const { paths, discovery } = await opened();
    paths.sync([sessionOf(5)]);
    paths.take({ type: "candidates", session: 5, round: 1, candidates: REMOTE });
    paths.take({ type: "punch", session: 5, round: 1, inMs: 0 });
    await pass(200);
    await paths[Symbol.asyncDispose]();
    await paths[Symbol.asyncDispose]();
    const { length } = discovery.sent;
    await pass(120_000);
    expect(discovery.sent).toHaveLength(length);
  });
});
