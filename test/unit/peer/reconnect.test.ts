import { expect, test } from "bun:test";
import { askedToWaitMs, redialMs } from "../../../src/peer/reconnect.ts";
import { ServerRefused } from "../../../src/peer/server-door.ts";

const MINUTE = 60_000;

const LATE = { random: () => 0.999_999 };

test("redialMs() finds a server again within four seconds for the first ten minutes, and within one when traffic waits", () => {
  for (let attempt = 0; attempt < 3000; attempt++) {
    expect(redialMs(attempt, 9.9 * MINUTE, LATE)).toBeLessThan(4_000);
    expect(redialMs(attempt, 9.9 * MINUTE, { ...LATE, isUrgent: true })).toBeLessThan(1_000);
  }
  expect(redialMs(0, 0, LATE)).toBeLessThan(250);
});

test("fifty machines come back over two seconds and more when a server was away for thirty", () => {
  for (let seed = 1; seed <= 20; seed++) {
    let last = seed;
    const random = (): number => {
      last = (last * 48_271) % 2_147_483_647; // Park and Miller's
      return last / 2_147_483_647;
    };
    const back = Array.from({ length: 50 }, () => {
      let at = 0;
      for (let attempt = 0; at < 30_000; attempt++) at += redialMs(attempt, at, { random }) + 20;
      return at;
    });
    expect(Math.max(...back) - Math.min(...back)).toBeGreaterThan(2_000);
    expect(Math.max(...back)).toBeLessThan(34_100);
    // No fifth of a second has a third of them.
    const busiest = Math.max(...back.map((at) => back.filter((other) => other >= at && other < at + 200).length));
    expect(busiest).toBeLessThan(17);
  }
});

test("redialMs() slows down in an old outage, to fifteen seconds at most", () => {
  expect(redialMs(0, 11 * MINUTE, LATE)).toBeGreaterThan(1_900);
  for (const attempt of [3, 30, 3000, 1e9]) {
    const wait = redialMs(attempt, 11 * MINUTE, LATE);
    expect(wait).toBeGreaterThan(14_000);
    expect(wait).toBeLessThan(15_000);
  }
});

test("redialMs() spreads machines out between nothing and the bound", () => {
  expect(redialMs(9, 0, { random: () => 0 })).toBe(0);
  expect(redialMs(9, 0, { random: () => 0.5 })).toBe(2_000);
});

test("askedToWaitMs() takes the server's word, within reason: it was redialled at once", () => {
  const refused = (retryAfterMs: unknown): ServerRefused =>
    new ServerRefused("Cannot answer now.", { code: "rate-limited", detail: { status: 429, retryAfterMs } });
  expect(askedToWaitMs(refused(7_000))).toBe(7_000);
  expect(askedToWaitMs(refused(1e9))).toBe(5 * MINUTE);
  for (const none of [refused(undefined), refused(-1), refused("7"), refused(Number.NaN), new Error("x"), null]) {
    expect(askedToWaitMs(none)).toBe(0);
  }
});
