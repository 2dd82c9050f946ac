import { describe, expect, test } from "bun:test";
import { redialMs } from "../../../src/peer/reconnect.ts";
import { DEFAULT_LIMITS, type Limits } from "../../../src/server/options.ts";
import { createLimiters } from "../../../src/server/limiters.ts";
import { machineId } from "./values.ts";

const ADDRESS = "203.0.113.5";

/** The same numbers in each run. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/**
 * Machines behind one address lose the server at 0 and dial until they are back, as the reference does: proof, challenge, token and two
 * upgrades, each counted as the server counts it. Says when each was back, in milliseconds.
 */
function backAt(machines: number, options: { readonly limits: Limits; readonly isOneBucket?: boolean }): number[] {
  const limiters = createLimiters(options.limits);
  const random = seeded(7);
  const dial = (machine: string, now: number): number => {
    const pair = `${machine} ${ADDRESS}`;
    const old = options.isOneBucket === true;
    return (
      limiters.proof.take(ADDRESS, now) ||
      limiters.signatures.take("", now) ||
      (old ? limiters.proof.take(ADDRESS, now) : limiters.auth.take(pair, now)) ||
      (old ? limiters.proof.take(ADDRESS, now) : limiters.auth.take(pair, now)) ||
      limiters.signatures.take("", now) ||
      limiters.upgrade.take(machine, now) ||
      limiters.upgrade.take(machine, now)
    );
  };
  const back: number[] = [];
  let waiting = Array.from({ length: machines }, (_, i) => ({ id: machineId(i), attempt: 0, at: 0 }));
  while (waiting.length > 0) {
    waiting.sort((a, b) => a.at - b.at);
    const [next, ...rest] = waiting;
    if (next === undefined || next.at > 60 * 60_000) break;
    const waitMs = dial(next.id, next.at);
    if (waitMs === 0) {
      back.push(next.at);
      waiting = rest;
      continue;
    }
    // As the header says it, in whole seconds, and then as any redial.
    next.at += Math.ceil(waitMs / 1000) * 1000 + redialMs(next.attempt++, next.at, { random });
  }
  return back;
}

describe("machines behind one address", () => {
  test.each([12, 200, 500, 1000])("%d are all back within a minute of the server's return", (machines) => {
    const back = backAt(machines, { limits: DEFAULT_LIMITS });
    expect(back.length).toBe(machines);
    expect(Math.max(...back)).toBeLessThan(60_000);
  });

  test("200 took minutes when each dial paid three times from one bucket of 120", () => {
    const back = backAt(200, {
      limits: { ...DEFAULT_LIMITS, proof: [{ burst: 120, perMs: 60_000 }] },
      isOneBucket: true,
    });
    expect(back.filter((at) => at < 60_000).length).toBeLessThan(100);
  });
});
