// Two machines find their ways to each other over a little internet in which minutes pass in milliseconds.
import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import type { IpAddress } from "../../src/base/ip.ts";
import { advance, FakeInternet, FakeServer, until } from "./fake-internet.ts";
import { FakeMachine, type MachineOptions } from "./fake-machine.ts";
import { FakeNat, NAT_KINDS, type NatKind } from "./fake-nat.ts";

const ip = (text: string): IpAddress => text as IpAddress;
const stack: (() => Promise<void>)[] = [];

beforeEach(() => {
  jest.useFakeTimers({ now: 1_700_000_000_000 });
});
afterEach(async () => {
  for (const end of stack.splice(0).reverse()) await end();
  jest.useRealTimers();
});

interface Scene {
  readonly net: FakeInternet;
  readonly server: FakeServer;
  readonly a: FakeMachine;
  readonly b: FakeMachine;
}

type SceneOptions = Partial<Pick<MachineOptions, "relay" | "allowed">> & {
  readonly sameLan?: boolean;
  readonly before?: (scene: Scene) => void;
};

async function scene(natA: NatKind, natB: NatKind, options: SceneOptions = {}): Promise<Scene> {
  const net = new FakeInternet();
  const server = new FakeServer(net);
  const now = (): number => performance.now();
  const { random } = net;
  const { sameLan, before, ...rest } = options;
  const routerA = new FakeNat(natA, { publicAddress: ip("198.51.100.1"), now, random });
  const routerB = sameLan === true ? routerA : new FakeNat(natB, { publicAddress: ip("198.51.100.2"), now, random });
  const a = new FakeMachine(net, server, { ...rest, end: "a", address: ip("192.168.1.2"), nat: routerA, lan: "a" });
  const place = sameLan === true ? { address: ip("192.168.1.3"), lan: "a" } : { address: ip("10.0.7.2"), lan: "b" };
  const b = new FakeMachine(net, server, { ...rest, ...place, end: "b", nat: routerB });
  a.other = b;
  b.other = a;
  const made = { net, server, a, b };
  before?.(made);
  stack.push(async () => {
    await Promise.all([stopped(a), stopped(b)]);
  });
  await a.start();
  await b.start();
  return made;
}

/** Loops wait on fake time, so it must go on while they end. */
async function stopped(machine: FakeMachine): Promise<void> {
  await machine.stop();
}

function kinds({ a, b }: Scene): string {
  return `${a.kind} ${b.kind}`;
}

/** nat.md 1.4 without prediction: who is behind a router that nobody can foresee reaches only those whose router lets anybody answer. */
function reaches(a: NatKind, b: NatKind): "direct" | "udp-relay" | "wss" {
  if (a === "udp-block" || b === "udp-block") return "wss";
  const isHard = (kind: NatKind): boolean => kind.startsWith("sym-");
  const isStrict = (kind: NatKind): boolean => isHard(kind) || kind === "port-r" || kind === "eim-np";
  return (isHard(a) && isStrict(b)) || (isHard(b) && isStrict(a)) ? "udp-relay" : "direct";
}

describe("openPaths() reaches what simultaneous open can reach", () => {
  for (const natA of NAT_KINDS) {
    for (const natB of NAT_KINDS) {
      const expected = reaches(natA, natB);
      test(`${natA} and ${natB}: ${expected}`, async () => {
        const made = await scene(natA, natB);
        const took = await until(() => kinds(made) === `${expected} ${expected}`, 2_000);
        expect({ kinds: kinds(made), withinTwoSeconds: took !== null }).toEqual({
          kinds: `${expected} ${expected}`,
          withinTwoSeconds: true,
        });
        await advance(5_000, 10);
        expect(kinds(made)).toBe(`${expected} ${expected}`);
      });
    }
  }
});

async function settled(natA: NatKind = "port-r", natB: NatKind = "port-r", options: SceneOptions = {}): Promise<Scene> {
  const made = await scene(natA, natB, options);
  await until(() => kinds(made) === "direct direct", 3_000);
  expect(kinds(made)).toBe("direct direct");
  return made;
}

/** Loses what goes directly between the two ends, in these directions. */
function loseDirect({ net }: Scene, directions: readonly ("a" | "b")[] = ["a", "b"]): void {
  net.delayMs = ({ from, to }) => {
    const isServer = from.address.startsWith("203.") || to.address.startsWith("203.");
    if (isServer) return 10;
    const isFromA = from.address === "198.51.100.1" || from.address === "192.168.1.2";
    return directions.includes(isFromA ? "a" : "b") ? null : 10;
  };
}

function checksSince({ net }: Scene, at: number, from: string): number {
  return net.sent.filter((one) => one.at >= at && one.datagram.from.address === from && one.datagram.bytes[4] === 0x21)
    .length;
}

const PLACE_C = { address: ip("172.20.0.9"), lan: "c" };

describe("openPaths() on a path that works", () => {
  test("prefers the LAN that both are in", async () => {
    const made = await settled("port-r", "port-r", { sameLan: true });
    await advance(1_000);
    expect([made.a.endpoint, made.b.endpoint]).toEqual(["192.168.1.3:51821", "192.168.1.2:51820"]);
  });

  test("moves traffic without losing a packet", async () => {
    const made = await scene("port-r", "port-r");
    const [fromA, fromB] = [made.a.traffic(1), made.b.traffic(1)];
    await advance(4_000, 1);
    fromA.stop();
    fromB.stop();
    await advance(200);
    expect(kinds(made)).toBe("direct direct");
    for (const end of [made.a, made.b]) {
      expect(end.arrived).toHaveLength(4_000);
      expect(end.ways.at(-1)).not.toBe("wss");
    }
  });

  test("keeps it although the peer is silent", async () => {
    const made = await settled();
    const traffic = made.a.traffic(50);
    const moves = made.a.moves.length + made.b.moves.length;
    await advance(60_000, 10);
    traffic.stop();
    expect(made.a.moves.length + made.b.moves.length).toBe(moves);
  });

  test("keeps it although it is slow", async () => {
    const made = await scene("port-r", "port-r", { before: ({ net }) => (net.delayMs = () => 400) });
    const [fromA, fromB] = [made.a.traffic(50), made.b.traffic(50)];
    await until(() => kinds(made) === "direct direct", 10_000);
    await advance(3_000, 10);
    const moves = made.a.moves.length + made.b.moves.length;
    await advance(60_000, 10);
    fromA.stop();
    fromB.stop();
    expect(kinds(made)).toBe("direct direct");
    expect(made.a.moves.length + made.b.moves.length).toBe(moves);
  });

  test("keeps it although one packet of twenty is lost", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(50), made.b.traffic(50)];
    made.net.delayMs = () => (made.net.random() < 0.05 ? null : 10);
    const moves = made.a.moves.length + made.b.moves.length;
    await advance(120_000, 10);
    fromA.stop();
    fromB.stop();
    expect(made.a.moves.length + made.b.moves.length).toBe(moves);
  });

  test("does not alternate between two alike", async () => {
    const made = await scene("1:1", "1:1", { sameLan: false });
    await until(() => kinds(made) === "direct direct", 3_000);
    made.net.delayMs = () => 9 + 2 * made.net.random();
    const traffic = made.a.traffic(100);
    const moves = made.a.moves.length;
    await advance(180_000, 10);
    traffic.stop();
    expect(made.a.moves.length).toBe(moves);
  });

  test("sends a few checks a minute while nothing else is sent, keepalives excepted", async () => {
    const made = await settled();
    const [keepA, keepB] = [made.a.traffic(25_000), made.b.traffic(25_000)];
    await advance(60_000, 20);
    const at = performance.now();
    await advance(300_000, 20);
    keepA.stop();
    keepB.stop();
    expect(kinds(made)).toBe("direct direct");
    // Two paths are kept, the relay's with a request to the relay itself; each check of the peer is answered; five searches.
    for (const address of ["192.168.1.2", "10.0.7.2"]) expect(checksSince(made, at, address) / 5).toBeLessThan(50);
  });

  test("is there after an idle night behind routers that forget in 30 s", async () => {
    const made = await settled();
    await advance(600_000, 20);
    expect(kinds(made)).toBe("direct direct");
    made.a.sendPacket();
    made.b.sendPacket();
    await advance(50);
    expect([made.a.arrived.length, made.b.arrived.length]).toEqual([1, 1]);
  });
});

describe("openPaths() on a path that breaks", () => {
  test("leaves it within a second when traffic waits, and both ends agree", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await advance(15_000, 5);
    loseDirect(made);
    const took = await until(() => made.a.kind !== "direct" && made.b.kind !== "direct", 1_000);
    expect(took).not.toBeNull();
    const before = [made.a.arrived.length, made.b.arrived.length];
    await advance(1_500);
    expect(
      [made.a.arrived.length - (before[0] ?? 0), made.b.arrived.length - (before[1] ?? 0)].every((n) => n > 40),
    ).toBe(true);
    await advance(5_000, 5);
    expect(kinds(made)).toBe("udp-relay udp-relay");
    fromA.stop();
    fromB.stop();
  });

  test("traffic flows again within a second when all of UDP dies under it", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await advance(15_000, 5);
    made.net.delayMs = () => null;
    await advance(30); // what is under way arrives
    const before = [made.a.arrived.length, made.b.arrived.length];
    const took = await until(
      () => made.a.arrived.length > (before[0] ?? 0) && made.b.arrived.length > (before[1] ?? 0),
      1_000,
    );
    const [a, b] = [made.a.arrived.length, made.b.arrived.length];
    expect(took).not.toBeNull();
    await advance(5_000, 5);
    expect(kinds(made)).toBe("wss wss");
    // From then on nothing is lost.
    expect([made.a.arrived.length - a, made.b.arrived.length - b].every((n) => n >= 240)).toBe(true);
    fromA.stop();
    fromB.stop();
  });

  test("the same when it dies while the session is idle and traffic starts then", async () => {
    const made = await settled();
    await advance(90_000, 10);
    made.net.delayMs = () => null;
    await advance(7_000, 10);
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    const took = await until(() => made.a.arrived.length > 0 && made.b.arrived.length > 0, 1_000);
    fromA.stop();
    fromB.stop();
    expect(took).not.toBeNull();
  });

  for (const direction of ["a", "b"] as const) {
    for (const sender of ["a", "b"] as const) {
      test(`what ${direction} sends is lost, ${sender} has traffic: both leave it`, async () => {
        const made = await settled();
        await advance(5_000, 10);
        loseDirect(made, [direction]);
        const other = sender === "a" ? made.b : made.a;
        const traffic = made[sender].traffic(20);
        await advance(8_000, 4);
        expect(made.a.kind).not.toBe("direct");
        expect(made.b.kind).toBe(made.a.kind);
        const before = other.arrived.length;
        await advance(2_000, 4);
        expect(other.arrived.length - before).toBeGreaterThan(95);
        traffic.stop();
      });
    }
  }

  test("comes back soon after it answers again", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await advance(5_000, 5);
    made.net.delayMs = () => null;
    await advance(3_000, 5);
    expect(kinds(made)).toBe("wss wss");
    made.net.delayMs = () => 10;
    expect(await until(() => kinds(made) === "direct direct", 20_000, 5)).not.toBeNull();
    fromA.stop();
    fromB.stop();
  });

  test("finds another when an end changes its network", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await advance(5_000, 5);
    const nat = new FakeNat("port-r", {
      publicAddress: ip("198.51.100.3"),
      now: () => performance.now(),
      random: made.net.random,
    });
    made.a.moveTo({ ...PLACE_C, nat });
    const before = [made.a.arrived.length, made.b.arrived.length];
    expect(
      await until(() => made.a.arrived.length > (before[0] ?? 0) && made.b.arrived.length > (before[1] ?? 0), 3_000),
    ).not.toBeNull();
    await advance(10_000, 5);
    expect(kinds(made)).toBe("direct direct");
    expect(made.b.endpoint).toBe("198.51.100.3:51820");
    fromA.stop();
    fromB.stop();
  });

  test("finds another when a router gets another address", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await advance(5_000, 5);
    const nat = made.b.options.nat;
    if (nat === null) throw new Error("it has one");
    nat.forget();
    nat.publicAddress = ip("198.51.100.77");
    const before = [made.a.arrived.length, made.b.arrived.length];
    expect(
      await until(() => made.a.arrived.length > (before[0] ?? 0) && made.b.arrived.length > (before[1] ?? 0), 3_000),
    ).not.toBeNull();
    await advance(90_000, 10);
    expect(kinds(made)).toBe("direct direct");
    expect(made.a.endpoint).toBe("198.51.100.77:51821");
    fromA.stop();
    fromB.stop();
  });

  test("both ends agree in the end, whatever is lost", async () => {
    for (let run = 0; run < 10; run++) {
      const made = await settled();
      const [fromA, fromB] = [made.a.traffic(30), made.b.traffic(30)];
      for (let turn = 0; turn < 12; turn++) {
        const lost = [made.net.random() < 0.4, made.net.random() < 0.4, made.net.random() < 0.3] as const;
        made.net.delayMs = ({ from, to }) => {
          const isServer = from.address.startsWith("203.") || to.address.startsWith("203.");
          const isFromA = from.address === "198.51.100.1";
          return (isServer && lost[2]) || (!isServer && lost[isFromA ? 0 : 1]) ? null : 10;
        };
        await advance(500 + 3_000 * made.net.random(), 10);
      }
      made.net.delayMs = () => 10;
      await advance(90_000, 20);
      expect(kinds(made)).toBe("direct direct");
      const before = [made.a.arrived.length, made.b.arrived.length];
      fromA.stop();
      fromB.stop();
      made.a.sendPacket();
      made.b.sendPacket();
      await advance(100);
      expect([made.a.arrived.length - (before[0] ?? 0) > 0, made.b.arrived.length - (before[1] ?? 0) > 0]).toEqual([
        true,
        true,
      ]);
      expect(made.a.policy.dropFrom).toEqual([]);
    }
  });
});

describe("openPaths() and the size of packets", () => {
  const payloadLimit = (scene: Scene, limit: number): void => {
    scene.net.sizeLimit = ({ from, to }) =>
      from.address.startsWith("203.") || to.address.startsWith("203.") ? 1_472 : limit;
  };

  test("finds the smaller size of a direct path through a 1340-byte tunnel", async () => {
    const made = await scene("port-r", "port-r", { relay: false, before: (one) => payloadLimit(one, 1_372) });
    await until(() => kinds(made) === "direct direct", 10_000);
    expect(kinds(made)).toBe("direct direct");
    expect([made.a.view.sizeBytes, made.b.view.sizeBytes]).toEqual([1_372, 1_372]);
    expect([made.a.mtu, made.b.mtu]).toEqual([1_340, 1_340]);
    made.net.sizeLimit = () => 1_472;
    await advance(90_000, 20);
    expect([made.a.view.sizeBytes, made.b.view.sizeBytes, made.a.mtu, made.b.mtu]).toEqual([1_452, 1_452, null, null]);
  });

  test("finds the smaller size when only one direction is narrow", async () => {
    const made = await scene("port-r", "port-r", {
      relay: false,
      before: ({ net }) => {
        net.sizeLimit = ({ from }) => (from.address === "198.51.100.2" ? 1_312 : 1_472);
      },
    });
    await until(() => kinds(made) === "direct direct", 10_000);
    await advance(5_000);
    expect([made.a.view.sizeBytes, made.b.view.sizeBytes]).toEqual([1_312, 1_312]);
  });

  test("leaves a path that takes nothing but small packets to the relay, and does not storm it", async () => {
    const made = await scene("port-r", "port-r", { before: (one) => payloadLimit(one, 1_200) });
    await advance(30_000, 2);
    expect(kinds(made)).toBe("udp-relay udp-relay");
    const at = performance.now();
    await advance(120_000, 10);
    expect(checksSince(made, at, "192.168.1.2") / 2).toBeLessThan(120);
  });

  test("leaves a path that loses full packets from some time on", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20, 1_452), made.b.traffic(20, 1_452)];
    await advance(5_000, 5);
    payloadLimit(made, 1_312);
    const before = [made.a.arrived.length, made.b.arrived.length];
    expect(
      await until(() => made.a.arrived.length > (before[0] ?? 0) && made.b.arrived.length > (before[1] ?? 0), 1_500),
    ).not.toBeNull();
    fromA.stop();
    fromB.stop();
  });
});

describe("openPaths() and what a person allows", () => {
  test("a peer that does not want direct paths is not reached directly", async () => {
    const made = await scene("1:1", "1:1", { allowed: ["udp-relay", "wss"] });
    await advance(5_000);
    expect(kinds(made)).toBe("udp-relay udp-relay");
  });
});
