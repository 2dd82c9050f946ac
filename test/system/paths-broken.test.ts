// Paths that die, in one direction or in both, and machines that move.
import { describe, expect, test } from "bun:test";
import { advance, until } from "./fake-internet.ts";
import { FakeNat } from "./fake-nat.ts";
import { ip, kinds, loseDirect, PLACE_C, settled, useLittleInternet } from "./path-scene.ts";

useLittleInternet();

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
