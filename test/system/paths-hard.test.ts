// Paths under bad conditions: routers that want both ends in step, loss at the start, recorded messages, a server that is gone.
import { describe, expect, test } from "bun:test";
import type { Datagram } from "./fake-internet.ts";
import { advance, SERVER, STUN_PORTS, until } from "./fake-internet.ts";
import type { FakeMachine } from "./fake-machine.ts";
import { checksSince, ip, kinds, scene, settled, useLittleInternet } from "./path-scene.ts";

useLittleInternet();

const COOKIE_BYTE = 0x21;
const isCheck = ({ bytes }: Datagram): boolean => bytes[4] === COOKIE_BYTE;

describe("openPaths() starts in step", () => {
  test("bug: routers that take early packets themselves are passed, with 20 ms of delay and 15 ms of skew", async () => {
    for (let skew = -15; skew <= 15; skew += 5) {
      const made = await scene("accept-input", "accept-input", {
        before: ({ net, server }) => {
          net.delayMs = () => 20;
          server.skewMs.a = Math.max(0, skew);
          server.skewMs.b = Math.max(0, -skew);
        },
      });
      expect(await until(() => kinds(made) === "direct direct", 2_500, 1)).not.toBeNull();
      await made.a.stop();
      await made.b.stop();
    }
  });

  test("100 times with a skew of up to 500 ms, 20 ms of delay and 2 % of loss: 99 are direct", async () => {
    let direct = 0;
    for (let run = 0; run < 100; run++) {
      const made = await scene("port-r", "port-r", {
        before: ({ net, server }) => {
          for (let i = 0; i < run * 7; i++) net.random();
          net.delayMs = () => (net.random() < 0.02 ? null : 20);
          server.skewMs[run % 2 === 0 ? "a" : "b"] = 500 * net.random();
        },
      });
      if ((await until(() => kinds(made) === "direct direct", 6_000, 5)) !== null) direct++;
      await made.a.stop();
      await made.b.stop();
    }
    expect(direct).toBeGreaterThanOrEqual(99);
  });
});

describe("openPaths() while a network comes up", () => {
  for (const lostMs of [1_000, 4_000, 8_000]) {
    test(`bug: UDP that was lost for the first ${lostMs / 1000} s cost a minute without a direct path`, async () => {
      const made = await scene("port-r", "port-r", {
        before({ net }) {
          const start = performance.now();
          net.delayMs = () => (performance.now() - start < lostMs ? null : 10);
        },
      });
      expect(await until(() => kinds(made) === "direct direct", lostMs + 10_000, 10)).not.toBeNull();
    });
  }

  test("where UDP never gets out, the questions become rare", async () => {
    const made = await scene("port-r", "port-r", { before: ({ net }) => (net.delayMs = () => null) });
    await advance(300_000, 50);
    const asked = made.net.sent.filter(({ datagram }) => STUN_PORTS.includes(datagram.to.port));
    const since = (ms: number): number => asked.filter(({ at }) => performance.now() - at < ms).length;
    expect(kinds(made)).toBe("wss wss");
    // In the last two minutes each end has searched twice, as ever: two ports, five times each.
    expect(since(120_000)).toBeLessThanOrEqual(2 * 2 * 10 + 20);
    expect(asked.length).toBeGreaterThan(since(120_000));
  });
});

describe("openPaths() and what a person allows", () => {
  for (const end of ["a", "b"] as const) {
    test(`bug: only ${end} wants no direct path: neither end takes one`, async () => {
      const made = await scene("1:1", "1:1", { allowedAt: { [end]: ["udp-relay", "wss"] } });
      await advance(10_000, 5);
      expect(kinds(made)).toBe("udp-relay udp-relay");
    });
  }

  test("one end without a UDP relay: direct all the same", async () => {
    await settled("port-r", "port-r", { allowedAt: { a: ["direct", "wss"] } });
  });
});

describe("openPaths() and strangers", () => {
  test("bug: recorded checks, played back from anywhere, move nobody and make no flood", async () => {
    const made = await settled();
    await advance(20_000, 10);
    const recorded = made.net.sent.map((one) => one.datagram).filter(isCheck);
    const moves = made.a.moves.length + made.b.moves.length;
    const playBack = (address: string): void => {
      const from = { address: ip(address), port: 6 };
      for (const { bytes } of recorded) {
        made.a.inject(bytes, from);
        made.b.inject(bytes, from);
      }
    };
    // A check that a router had filtered is new to its receiver, whoever brings it.
    playBack("192.0.2.200");
    for (let i = 1; i <= 20; i++) {
      playBack(`192.0.2.${i}`);
      await advance(100, 10);
    }
    const sentTo = made.net.sent.map(({ datagram }) => datagram.to.address).filter((to) => to.startsWith("192.0.2."));
    expect(recorded.length).toBeGreaterThan(20);
    expect(made.a.moves.length + made.b.moves.length).toBe(moves);
    expect(new Set(sentTo)).toEqual(new Set([ip("192.0.2.200")]));
    expect(sentTo.length).toBeLessThan(40);
  });
});

describe("openPaths() without the server", () => {
  test("a direct path goes on when the server is gone", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    made.net.delayMs = ({ from, to }) => (from.address === SERVER || to.address === SERVER ? null : 10);
    made.a.wssWorks = false;
    const moves = made.a.moves.length + made.b.moves.length;
    await advance(600_000, 20);
    fromA.stop();
    fromB.stop();
    expect(kinds(made)).toBe("direct direct");
    expect(made.a.moves.length + made.b.moves.length).toBe(moves);
  });

  test("a relay that dies is left for the WebSocket, and found again", async () => {
    const made = await scene("sym-rand", "sym-rand");
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await until(() => kinds(made) === "udp-relay udp-relay", 3_000);
    await advance(5_000, 10);
    made.server.relayWorks = false;
    expect(await until(() => kinds(made) === "wss wss", 1_000)).not.toBeNull();
    await advance(20_000, 10);
    expect(kinds(made)).toBe("wss wss");
    made.server.relayWorks = true;
    expect(await until(() => kinds(made) === "udp-relay udp-relay", 10_000, 10)).not.toBeNull();
    fromA.stop();
    fromB.stop();
  });
});

describe("openPaths() and sessions that end", () => {
  test("leaves nothing behind: no check, no redirect, and WireGuard speaks to the relay", async () => {
    const made = await settled();
    const traffic = made.a.traffic(20);
    await advance(3_000, 10);
    traffic.stop();
    for (const end of [made.a, made.b]) end.paths.sync([]);
    await advance(100);
    const at = performance.now();
    await advance(30_000, 20);
    expect(
      [made.a, made.b].map((end: FakeMachine) => end.policy.redirects.length + end.policy.dropFrom.length),
    ).toEqual([0, 0]);
    expect(made.a.wireGuardEndpoint).toBe("127.0.0.1:7");
    expect(checksSince(made, at, "192.168.1.2")).toBe(0);
  });
});

describe("openPaths() between two routers that restart", () => {
  test("the mappings are gone: another path within a second of traffic, and direct again soon", async () => {
    const made = await settled();
    const [fromA, fromB] = [made.a.traffic(20), made.b.traffic(20)];
    await advance(5_000, 10);
    for (const end of [made.a, made.b]) end.options.nat?.forget();
    const before = made.b.arrived.length;
    await advance(1_000, 2);
    expect(made.b.arrived.length).toBeGreaterThan(before);
    expect(await until(() => kinds(made) === "direct direct", 20_000, 10)).not.toBeNull();
    fromA.stop();
    fromB.stop();
  });
});
