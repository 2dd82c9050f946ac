// Paths by other ports than WireGuard's: who tries what, how much of it at most, and what stays open afterwards.
import { describe, expect, test } from "bun:test";
import { advance, SERVER, until } from "./fake-internet.ts";
import type { NatKind } from "./fake-nat.ts";
import { kinds, scene, type Scene, settled, useLittleInternet } from "./path-scene.ts";

useLittleInternet();

const ROUTER_A = "198.51.100.1";
const ROUTER_B = "198.51.100.2";

/** What a machine behind a router sent to the other router's address: when, and to which port. */
function towards({ net }: Scene, to: string): readonly { readonly at: number; readonly port: number }[] {
  const sent = net.sent.filter(({ datagram }) => datagram.to.address === to);
  return sent.map(({ at, datagram }) => ({ at, port: datagram.to.port }));
}

/** Of both routers. */
function portsTried(made: Scene): number {
  const ports = [ROUTER_A, ROUTER_B].flatMap((router) => towards(made, router).map(({ port }) => `${router} ${port}`));
  return new Set(ports).size;
}

/** The most that left within any second. */
function mostInASecond(sent: readonly { readonly at: number }[]): number {
  let most = 0;
  for (let from = 0, to = 0; to < sent.length; to++) {
    while ((sent[to]?.at ?? 0) - (sent[from]?.at ?? 0) >= 1_000) from++;
    most = Math.max(most, to - from + 1);
  }
  return most;
}

const PAIRS: readonly (readonly [NatKind, NatKind])[] = [
  ["sym-seq", "port-r"],
  ["eim-np", "sym-seq"],
  ["sym-rand", "port-r"],
  ["port-r", "sym-adm"],
];

describe("openPaths() by a side port", () => {
  for (const [natA, natB] of PAIRS) {
    test(`${natA} and ${natB}: a thousand packets a second move to it without loss, and one port stays open`, async () => {
      const made = await scene(natA, natB);
      await until(() => kinds(made) === "udp-relay udp-relay", 2_000);
      const [fromA, fromB] = [made.a.traffic(1), made.b.traffic(1)];
      expect(await until(() => kinds(made) === "direct direct", 8_000)).not.toBeNull();
      await advance(15_000, 1);
      fromA.stop();
      fromB.stop();
      const last = [made.a.sendPacket(), made.b.sendPacket()];
      await advance(200);
      expect([made.b.arrived.length, made.a.arrived.length]).toEqual(last);
      expect(made.a.ways.at(-1)).toStartWith(ROUTER_B);
      // None, if it was WireGuard's own that was met.
      const open = made.a.openSides + made.b.openSides;
      expect(open).toBeLessThanOrEqual(1);
      const sides = [made.a, made.b].flatMap(({ policy }) => policy.sides ?? []);
      expect(sides.map(({ leaves }) => leaves)).toEqual(open === 1 ? [true] : []);
    });
  }

  test("is left for the relay when it dies, found anew, and nothing of it stays when the session ends", async () => {
    const made = await scene("sym-rand", "port-r");
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await until(() => kinds(made) === "direct direct", 8_000);
    await advance(10_000, 5);
    made.a.options.nat?.forget();
    const left = await until(() => made.a.kind !== "direct" && made.b.kind !== "direct", 3_000);
    expect(left).not.toBeNull();
    expect(await until(() => kinds(made) === "direct direct", 20_000, 5)).not.toBeNull();
    fromA.stop();
    fromB.stop();
    for (const end of [made.a, made.b]) end.paths.sync([]);
    await advance(1_000);
    expect([made.a, made.b].map((end) => [end.openSides, end.policy.sides?.length])).toEqual([
      [0, 0],
      [0, 0],
    ]);
  });

  for (const [version, expected] of [
    ["an earlier version does not", 0],
    ["this one does", 20],
  ] as const) {
    test(`a router that took an early packet for its own is passed by a fresh port: ${version}`, async () => {
      let direct = 0;
      for (let run = 0; run < 20; run++) {
        const made = await scene("accept-input", "accept-input", {
          before: ({ net, server }) => {
            net.delayMs = () => 20;
            server.skewMs.a = 60; // of the first punch alone
            server.passesNat = expected > 0;
          },
        });
        await until(() => made.server.punches === 1, 1_000);
        made.server.skewMs.a = 0;
        if ((await until(() => kinds(made) === "direct direct", 4_000)) !== null) direct++;
        await made.a.stop();
        await made.b.stop();
      }
      expect(direct).toBe(expected);
    });
  }
});

describe("openPaths() guesses ports", () => {
  test("no more than 2048, no more than 512 in a second, and then not again for minutes", async () => {
    const made = await scene("sym-rand", "port-r", {
      // The hard side's ports are never met.
      before: ({ net }) => {
        net.delayMs = ({ from, to }) => (from.address === SERVER || to.address === SERVER ? 10 : null);
      },
    });
    await advance(40_000, 5);
    const probes = towards(made, ROUTER_A);
    expect(new Set(probes.map(({ port }) => port)).size).toBeGreaterThan(2_000);
    // Beside the probes there are the checks of candidates.
    expect(probes.length).toBeLessThan(2_048 + 100);
    expect(mostInASecond(probes)).toBeLessThanOrEqual(512);
    expect(made.b.view.side).toMatchObject({ own: "preserved", peer: "random", tried: ["guessed"], probes: 2_048 });
    expect(made.a.openSides).toBe(0);
    const before = towards(made, ROUTER_A).length;
    await advance(150_000, 20);
    expect(towards(made, ROUTER_A).length - before).toBeLessThan(200);
    expect(made.a.openSides).toBe(0);
  });

  test("never between two routers that both give each destination another port", async () => {
    const made = await scene("sym-rand", "sym-rand");
    await advance(60_000, 5);
    expect(portsTried(made)).toBeLessThan(10);
    expect(made.a.openSides + made.b.openSides).toBe(0);
    expect(kinds(made)).toBe("udp-relay udp-relay");
  });

  test("never where the server has not itself seen the peer", async () => {
    const made = await scene("sym-rand", "port-r", { before: ({ server }) => (server.saysSeen = false) });
    await advance(20_000, 5);
    expect(portsTried(made)).toBeLessThan(10);
    expect(kinds(made)).toBe("udp-relay udp-relay");
  });

  for (const end of ["a", "b"] as const) {
    test(`never when a person at ${end} wants none guessed`, async () => {
      const made = await scene("sym-rand", "port-r", { guessesAt: { [end]: false } });
      await advance(20_000, 5);
      expect(portsTried(made)).toBeLessThan(10);
      expect(kinds(made)).toBe("udp-relay udp-relay");
      expect([made.a.view.side?.off, made.b.view.side?.off]).toEqual(end === "a" ? ["here", "peer"] : ["peer", "here"]);
    });
  }

  test("nobody tries anything of it with a peer of an earlier version", async () => {
    const made = await scene("sym-rand", "port-r", { before: ({ server }) => (server.passesNat = false) });
    await advance(20_000, 5);
    const told = [...made.server.candidates.values()].flat().map(({ kind }) => kind);
    expect(new Set(told)).toEqual(new Set(["host", "reflexive"] as const));
    expect(portsTried(made)).toBeLessThan(10);
  });

  test("a path that works is left alone", async () => {
    const made = await settled();
    await advance(130_000, 20);
    expect(portsTried(made)).toBe(2);
    expect(made.a.view.side?.tried).toEqual([]);
  });
});
