import { expect, test } from "bun:test";
import { askedToWaitMs, redialMs } from "../../../src/peer/reconnect.ts";
import { ServerRefused } from "../../../src/peer/server-door.ts";

const MINUTE = 60_000;

test("redialMs() finds a server again within two seconds for the first ten minutes", () => {
  for (let attempt = 0; attempt < 3000; attempt++) {
    expect(redialMs(attempt, 9.9 * MINUTE, () => 0.999_999)).toBeLessThan(2_000);
  }
  expect(redialMs(0, 0, () => 0.999_999)).toBeLessThan(250);
});

test("redialMs() slows down in an old outage, to fifteen seconds at most", () => {
  expect(redialMs(0, 11 * MINUTE, () => 0.999_999)).toBeGreaterThan(1_900);
  for (const attempt of [3, 30, 3000, 1e9]) {
    const wait = redialMs(attempt, 11 * MINUTE, () => 0.999_999);
    expect(wait).toBeGreaterThan(14_000);
    expect(wait).toBeLessThan(15_000);
  }
});

test("redialMs() spreads machines out between nothing and the bound", () => {
  expect(redialMs(9, 0, () => 0)).toBe(0);
  expect(redialMs(9, 0, () => 0.5)).toBe(1_000);
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
