// When to dial a server again: at once but spread out, for ever, and more slowly once an outage is old.
import { backoffMs, sleep } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";

/** For this long after the connection was lost, a server that comes back is found within seconds. */
const FRESH_OUTAGE_MS = 10 * 60_000;
/** Who has traffic waiting for the server comes first; all others leave it room, and spread out over so long. */
const URGENT_MOST_MS = 1_000;
const FRESH_MOST_MS = 4_000;

export interface RedialOptions {
  /** Traffic waits for the connection. */
  readonly isUrgent?: boolean;
  readonly random?: () => number;
}

/** `attempt` counts from 0; waits are uniform between zero and the bound, so that many machines spread out. */
export function redialMs(attempt: number, outageMs: number, options: RedialOptions = {}): number {
  const { isUrgent = false, random = Math.random } = options;
  const mostMs = isUrgent ? URGENT_MOST_MS : FRESH_MOST_MS;
  if (outageMs < FRESH_OUTAGE_MS) return backoffMs(attempt, { firstMs: 250, mostMs }, random);
  return backoffMs(attempt, { firstMs: 2_000, mostMs: 15_000 }, random);
}

/** A server that asks for more is asked again after this nonetheless. */
const MOST_ASKED_MS = 5 * 60_000;

/** How long the server said to wait, in milliseconds; 0 where it did not. */
export function askedToWaitMs(thrown: unknown): number {
  const asked = thrown instanceof HiggsError ? thrown.detail.retryAfterMs : undefined;
  return typeof asked === "number" && asked > 0 ? Math.min(asked, MOST_ASKED_MS) : 0;
}

/**
 * Why a connection may be dead: a path to a peer died; the machine's network is another, and what is being dialled was dialled in the
 * one before; or the machine lost an address, and with it what was open.
 */
export type Doubt = "silence" | "changed" | "moved";

/** A server that is there answers a ping within this, unless the line is full; the next connection costs less than waiting for one that is dead. */
export const PROBE_MS = 800;

/** What a redialling connection does when the machine's network changed: whatever it waits for is waited for no more. */
export class Redialling {
  #attempt = new AbortController();
  #wasCutShort = false;

  /** For all that one attempt waits for. */
  signal(outer: AbortSignal): AbortSignal {
    this.#attempt = new AbortController();
    return AbortSignal.any([outer, this.#attempt.signal]);
  }

  /** Until the next attempt; at once after `now`. Never throws. */
  async pause(ms: number, outer: AbortSignal): Promise<void> {
    if (!this.#wasCutShort) await sleep(ms, this.signal(outer)).catch(() => undefined); // cut short
    this.#wasCutShort = false;
  }

  /** Ends what is under way, and dials again at once. */
  now(): void {
    this.#wasCutShort = true;
    this.#attempt.abort(new Error("the network changed"));
  }
}
