// Two machines find their ways to each other over a little internet in which minutes pass in milliseconds.
import { describe, expect, test } from "bun:test";
import { advance, SERVER, until } from "./fake-internet.ts";
import { NAT_KINDS, type NatKind } from "./fake-nat.ts";
import { checksSince, kinds, loseDirect, scene, type Scene, settled, useLittleInternet } from "./path-scene.ts";

useLittleInternet();

/** By opening at the same instant: who is behind a router that nobody can foresee reaches only those whose router lets anybody answer. */
function reaches(a: NatKind, b: NatKind): "direct" | "udp-relay" | "wss" {
  if (a === "udp-block" || b === "udp-block") return "wss";
  const isHard = (kind: NatKind): boolean => kind.startsWith("sym-");
  const isStrict = (kind: NatKind): boolean => isHard(kind) || kind === "port-r" || kind === "eim-np";
  return (isHard(a) && isStrict(b)) || (isHard(b) && isStrict(a)) ? "udp-relay" : "direct";
}

/** With other ports too, all but two routers that both give each destination another port. */
function reachesByOtherPorts(a: NatKind, b: NatKind): boolean {
  return reaches(a, b) === "udp-relay" && !(a.startsWith("sym-") && b.startsWith("sym-"));
}

describe("openPaths() reaches what routers let through", () => {
  for (const natA of NAT_KINDS) {
    for (const natB of NAT_KINDS) {
      const first = reaches(natA, natB);
      const last = reachesByOtherPorts(natA, natB) ? "direct" : first;
      test(`${natA} and ${natB}: ${first === last ? last : `${first}, then ${last}`}`, async () => {
        const made = await scene(natA, natB);
        expect(await until(() => kinds(made) === `${first} ${first}`, 2_000)).not.toBeNull();
        expect(await until(() => kinds(made) === `${last} ${last}`, 8_000)).not.toBeNull();
        await advance(10_000, 10);
        expect(kinds(made)).toBe(`${last} ${last}`);
      });
    }
  }
});

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

  test("moves from the UDP relay to a direct path that opens later, without losing a packet", async () => {
    const made = await scene("port-r", "port-r", { before: (one) => loseDirect(one) });
    const [fromA, fromB] = [made.a.traffic(5), made.b.traffic(5)];
    await until(() => kinds(made) === "udp-relay udp-relay", 3_000);
    await advance(3_000, 5);
    made.net.delayMs = ({ from, to }) => (from.address === SERVER || to.address === SERVER ? 20 : 5);
    expect(await until(() => kinds(made) === "direct direct", 70_000, 5)).not.toBeNull();
    await advance(10_000, 5);
    fromA.stop();
    fromB.stop();
    const last = [made.a.sendPacket(), made.b.sendPacket()];
    await advance(200, 5);
    expect([made.b.arrived.length, made.a.arrived.length]).toEqual(last);
    expect([made.a.policy.redirects, made.a.policy.dropFrom]).toEqual([[], []]);
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
    expect([made.a.mtu, made.b.mtu]).toEqual([1_328, 1_328]);
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
    expect(checksSince(made, at, "192.168.1.2") / 2).toBeLessThan(160); // two or three searches, as it happens
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
