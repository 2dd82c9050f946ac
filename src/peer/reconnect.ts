// When to dial a server again: at once but spread out, for ever, and more slowly once an outage is old.
import { backoffMs } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";

/** For this long after the connection was lost, a server that comes back is found within two seconds. */
const FRESH_OUTAGE_MS = 10 * 60_000;

/** `attempt` counts from 0; waits are uniform between zero and the bound, so that many machines spread out. */
export function redialMs(attempt: number, outageMs: number, random: () => number = Math.random): number {
  if (outageMs < FRESH_OUTAGE_MS) return backoffMs(attempt, { firstMs: 250, mostMs: 2_000 }, random);
  return backoffMs(attempt, { firstMs: 2_000, mostMs: 15_000 }, random);
}

/** A server that asks for more is asked again after this nonetheless. */
const MOST_ASKED_MS = 5 * 60_000;

/** How long the server said to wait, in milliseconds; 0 where it did not. */
export function askedToWaitMs(thrown: unknown): number {
  const asked = thrown instanceof HiggsError ? thrown.detail.retryAfterMs : undefined;
  return typeof asked === "number" && asked > 0 ? Math.min(asked, MOST_ASKED_MS) : 0;
}
