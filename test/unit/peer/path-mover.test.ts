import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { type Endpoint, formatEndpoint } from "../../../src/base/ip.ts";
import type { DiscoveryMechanism } from "../../../src/net/discovery/discovery.ts";
import { PathMover, RedirectBoard } from "../../../src/peer/path-mover.ts";
import { endpointOf, FakeBridge, FakeDiscovery, FakeRedirect, SILENT } from "./fake-discovery.ts";

const ONE = endpointOf("198.51.100.1:1");
const TWO = endpointOf("198.51.100.2:2");
const THREE = endpointOf("198.51.100.3:3");
const SIX = endpointOf("[2001:db8::1]:6");
const BRIDGE = "127.0.0.1:7";

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

async function pass(ms: number): Promise<void> {
  jest.advanceTimersByTime(ms);
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

function made(mechanism: DiscoveryMechanism = "nft") {
  const [discovery, redirect, bridge] = [new FakeDiscovery(mechanism), new FakeRedirect(), new FakeBridge()];
  const board = new RedirectBoard({ redirect, wireGuardPort: 51_820, sourceTo: () => null, log: SILENT });
  const told: string[] = [];
  const wireGuard = { endpoint: bridge.endpoint };
  const mover = new PathMover({
    discovery,
    board,
    bridge,
    endpoint: () => Promise.resolve(wireGuard.endpoint),
    setEndpoint: (endpoint: Endpoint) => {
      told.push(formatEndpoint(endpoint));
      wireGuard.endpoint = endpoint;
      return Promise.resolve();
    },
    sidePort: (port) => ({
      port,
      send: (bytes, to) => discovery.send(bytes, to),
      sendMany: (packets, to) => {
        for (const bytes of packets) discovery.sent.push({ to: `${formatEndpoint(to)} by ${port}`, bytes });
        return packets.length;
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
    log: SILENT,
  });
  return { discovery, redirect, bridge, board, mover, told, wireGuard };
}

describe("PathMover", () => {
  test("leads away what WireGuard hands the bridge, and tells WireGuard only when nothing else moved it", async () => {
    const { mover, bridge, discovery, told } = made();
    mover.move(ONE, null, false);
    await pass(0);
    expect(told).toEqual([]);
    bridge.detour?.([new Uint8Array(40)]);
    expect(discovery.sent.map(({ to }) => to)).toEqual([formatEndpoint(ONE)]);
    await pass(700);
    expect(told).toEqual([formatEndpoint(ONE)]);
  });

  test("says nothing to a WireGuard that has moved by itself", async () => {
    const { mover, wireGuard, told } = made();
    mover.move(ONE, null, false);
    wireGuard.endpoint = ONE;
    await pass(10_000);
    expect(told).toEqual([]);
  });

  test("redirects from one living path to another for as long as packets are under way", async () => {
    const { mover, redirect } = made();
    mover.move(ONE, null, false);
    mover.move(TWO, ONE, false);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.1:1 > 198.51.100.2:2");
    await pass(5_000);
    expect(redirect.text).toBe("");
  });

  test("bug: two moves one after the other lead from the first path to the last", async () => {
    const { mover, redirect } = made();
    mover.move(TWO, ONE, false);
    mover.move(THREE, TWO, false);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.1:1 > 198.51.100.3:3, 198.51.100.2:2 > 198.51.100.3:3");
  });

  test("a move there and back leaves no redirect in a circle", async () => {
    const { mover, redirect } = made();
    mover.move(TWO, ONE, false);
    mover.move(ONE, TWO, false);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.2:2 > 198.51.100.1:1");
  });

  test("drops what a dead path still brings, until it answers", async () => {
    const { mover, redirect, told, bridge } = made();
    mover.move(ONE, null, false);
    mover.move(null, ONE, true);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.1:1 dropped");
    expect([told.at(-1), bridge.detour]).toEqual([BRIDGE, null]);
    await pass(60_000);
    expect(redirect.text).toBe("198.51.100.1:1 dropped");
    mover.confirmed(ONE);
    await pass(0);
    expect(redirect.text).toBe("");
  });

  test("goes from a dead path to another at once", async () => {
    const { mover, redirect, told } = made();
    mover.move(TWO, ONE, true);
    await pass(0);
    expect([redirect.text, told.at(-1)]).toEqual(["198.51.100.1:1 dropped", "198.51.100.2:2"]);
  });

  test("goes to the other family by way of the bridge, as no rule can", async () => {
    const { mover, redirect, told, bridge, discovery } = made();
    mover.move(SIX, ONE, false);
    await pass(0);
    expect([redirect.text, told.at(-1)]).toEqual(["", BRIDGE]);
    bridge.detour?.([new Uint8Array(40)]);
    expect(discovery.sent.at(-1)?.to).toBe(formatEndpoint(SIX));
    await pass(700);
    expect(told.at(-1)).toBe(formatEndpoint(SIX));
  });

  test("where a userspace bridge has the port, it moves without WireGuard's knowing, and hears all places but those given up", async () => {
    const { mover, discovery, redirect, bridge, told } = made("bridge");
    const heard = (): string[] => [...discovery.accepted.keys()].sort();
    mover.confirmed(THREE); // answers, and is not used: the peer may move there first
    mover.move(ONE, null, false);
    mover.move(TWO, ONE, false);
    await pass(10_000);
    expect(heard()).toEqual([ONE, TWO, THREE].map(formatEndpoint));
    discovery.accepted.get(formatEndpoint(ONE))?.([new Uint8Array(40)]);
    expect(bridge.injected).toHaveLength(1);
    bridge.detour?.([new Uint8Array(40)]);
    expect(discovery.sent.at(-1)?.to).toBe(formatEndpoint(TWO));
    mover.move(SIX, TWO, true);
    expect(heard()).toEqual([ONE, THREE, SIX].map(formatEndpoint).sort());
    mover.move(null, SIX, true);
    expect([heard(), bridge.detour]).toEqual([[ONE, THREE].map(formatEndpoint), null]);
    mover.confirmed(SIX);
    expect(heard()).toContain(formatEndpoint(SIX));
    mover.close({ toRelay: false });
    await pass(10_000);
    expect([heard(), redirect.text, told]).toEqual([[], "", []]);
  });

  test("bug: nothing of a session that ended stays: no redirect, no drop, no timer, no endpoint", async () => {
    const { mover, redirect, told, bridge } = made();
    mover.move(ONE, null, false);
    mover.move(TWO, ONE, true);
    mover.move(THREE, TWO, false);
    mover.close({ toRelay: true });
    await pass(0);
    expect([redirect.text, told.at(-1), bridge.detour]).toEqual(["", BRIDGE, null]);
    const before = told.length;
    await pass(60_000);
    expect(told.length).toBe(before);
  });

  test("a process that ends leaves a tunnel that works where it is", async () => {
    const { mover, told, wireGuard } = made();
    mover.move(ONE, null, false);
    wireGuard.endpoint = ONE;
    mover.close({ toRelay: false });
    await pass(60_000);
    expect(told).toEqual([]);
  });
});

test("RedirectBoard keeps the sessions apart, and a refusal of the kernel is no crash", async () => {
  const { board, redirect } = made();
  board.send(ONE, TWO);
  board.drop(THREE);
  board.clear(ONE);
  await board.idle();
  expect(redirect.text).toBe("198.51.100.3:3 dropped");
  redirect.apply = () => Promise.reject(new Error("refused"));
  board.drop(ONE);
  await board.idle();
});

describe("PathMover by a side port", () => {
  const SIDE = { ...ONE, via: 40_123 };
  const OTHER_SIDE = { ...ONE, via: 40_124 };

  test("what WireGuard hands the bridge leaves by it, and WireGuard's own packets do so by the kernel", async () => {
    const { mover, bridge, discovery, redirect, told } = made();
    mover.move(SIDE, null, false);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.1:1 by 40123");
    bridge.detour?.([new Uint8Array(40)]);
    expect(discovery.sent.map(({ to }) => to)).toEqual(["198.51.100.1:1 by 40123"]);
    await pass(700);
    expect(told).toEqual(["198.51.100.1:1"]);
    await pass(60_000);
    expect(redirect.text).toBe("198.51.100.1:1 by 40123");
  });

  test("comes from the relay's address and goes to another one with packets under way let in", async () => {
    const { mover, redirect } = made();
    mover.move(TWO, null, false);
    mover.move(SIDE, TWO, false);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.2:2 > 198.51.100.1:1, 198.51.100.1:1 by 40123");
    mover.move(THREE, SIDE, false);
    await pass(0);
    expect(redirect.text).toBe(
      "198.51.100.2:2 > 198.51.100.3:3, 198.51.100.1:1 > 198.51.100.3:3, 198.51.100.1:1 by 40123",
    );
    await pass(5_000);
    expect(redirect.text).toBe("198.51.100.2:2 > 198.51.100.3:3");
  });

  test("to the same address by another port: no redirect, and the old port lets in for a while", async () => {
    const { mover, redirect } = made();
    mover.move(SIDE, null, false);
    mover.move(OTHER_SIDE, SIDE, false);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.1:1 in at 40123, 198.51.100.1:1 by 40124");
    mover.move(ONE, OTHER_SIDE, false);
    await pass(0);
    expect(redirect.text).toBe("198.51.100.1:1 in at 40123, 198.51.100.1:1 in at 40124");
    await pass(5_000);
    expect(redirect.text).toBe("198.51.100.1:1 in at 40123");
    mover.closedSide(40_123);
    await pass(0);
    expect(redirect.text).toBe("");
  });

  test("when it is dead, what it brings is not WireGuard's any more, and the same address by WireGuard's port is not hit", async () => {
    const { mover, redirect, told } = made();
    mover.move(SIDE, null, false);
    mover.move(ONE, SIDE, true);
    await pass(0);
    expect([redirect.text, told.at(-1)]).toEqual(["", "198.51.100.1:1"]);
    mover.confirmed(SIDE);
    await pass(0);
    expect(redirect.text).toBe("");
  });

  test("a process that ends leaves the rules of the path in use; a session that ends leaves none", async () => {
    const first = made();
    first.mover.move(SIDE, null, false);
    first.mover.close({ toRelay: false });
    await pass(0);
    expect(first.redirect.text).toBe("198.51.100.1:1 by 40123");
    const second = made();
    second.mover.move(SIDE, null, false);
    second.mover.close({ toRelay: true });
    await pass(0);
    expect([second.redirect.text, second.told.at(-1)]).toEqual(["", BRIDGE]);
  });

  test("where a userspace bridge has the port, the session's own bridge sends by it", async () => {
    const { mover, discovery, bridge, told } = made("bridge");
    mover.move(SIDE, null, false);
    await pass(0);
    bridge.detour?.([new Uint8Array(40)]);
    expect([discovery.accepted.size, discovery.sent.at(-1)?.to, told]).toEqual([0, "198.51.100.1:1 by 40123", []]);
  });
});
