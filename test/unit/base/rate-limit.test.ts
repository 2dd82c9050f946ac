import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { RateLimit } from "../../../src/base/rate-limit.ts";
import { check } from "../support/property.ts";

describe("RateLimit.take()", () => {
  test("lets the burst through and then says how long to wait", () => {
    const limit = new RateLimit([{ burst: 3, perMs: 30_000 }]);
    expect([1, 2, 3].map(() => limit.take("a", 1000))).toEqual([0, 0, 0]);
    expect(limit.take("a", 1000)).toBe(10_000);
    expect(limit.take("b", 1000)).toBe(0);
    expect(limit.take("a", 10_999)).toBeGreaterThan(0);
    expect(limit.take("a", 11_000)).toBe(0);
    expect(limit.take("a", 11_000)).toBe(10_000);
  });

  test("asks all of its rates", () => {
    const limit = new RateLimit([
      { burst: 2, perMs: 1000 },
      { burst: 3, perMs: 1_000_000 },
    ]);
    expect([0, 0, 1000].map((now) => limit.take("a", now))).toEqual([0, 0, 0]);
    expect(limit.take("a", 2000)).toBeGreaterThan(300_000);
  });

  test("takes nothing when it refuses", () => {
    const limit = new RateLimit([{ burst: 1, perMs: 1000 }]);
    limit.take("a", 0);
    for (let now = 0; now < 1000; now += 10) limit.take("a", now);
    expect(limit.take("a", 1000)).toBe(0);
  });

  test("gives nothing for a clock that was set back", () => {
    const limit = new RateLimit([{ burst: 1, perMs: 1000 }]);
    limit.take("a", 10_000);
    expect(limit.take("a", 5000)).toBeGreaterThan(0);
    expect(limit.take("a", 6000)).toBe(0);
  });

  test("keeps its table at a fixed size and forgets whoever was silent longest", () => {
    const limit = new RateLimit([{ burst: 1, perMs: 1_000_000 }], 10);
    for (let i = 0; i < 1000; i++) limit.take(`a${i}`, 0);
    expect(limit.size).toBe(10);
    expect(limit.take("a999", 0)).toBeGreaterThan(0);
    expect(limit.take("a989", 0)).toBe(0);
  });

  test("never lets more than burst and refill through", () => {
    check(
      fc.property(fc.array(fc.nat(200), { maxLength: 200 }), (steps) => {
        const limit = new RateLimit([{ burst: 5, perMs: 1000 }]);
        let now = 0;
        let taken = 0;
        for (const step of steps) {
          now += step;
          if (limit.take("a", now) === 0) taken++;
        }
        expect(taken).toBeLessThanOrEqual(5 + Math.ceil((now * 5) / 1000));
      }),
    );
  });
});

test("RateLimit.waitMs() says the same and takes nothing", () => {
  const limit = new RateLimit([{ burst: 1, perMs: 1000 }]);
  expect(limit.waitMs("a", 0)).toBe(0);
  expect(limit.size).toBe(0);
  limit.take("a", 0);
  expect(limit.waitMs("a", 0)).toBe(1000);
  expect(limit.waitMs("a", 1000)).toBe(0);
  expect(limit.take("a", 1000)).toBe(0);
});
