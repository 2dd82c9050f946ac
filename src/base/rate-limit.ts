// Token buckets in a table of fixed size, keyed by who asks, so that a flood costs the limiter no memory.

export interface Rate {
  /** How many may come at once. */
  readonly burst: number;
  /** How fast that many come back. */
  readonly perMs: number;
}

interface Bucket {
  tokens: number;
  at: number;
}

/** 4 096 callers at a time, as coturn's: an attacker with more addresses makes old buckets forgotten, never the table larger. */
const MOST_BUCKETS = 4096;

export class RateLimit {
  readonly #rates: readonly Rate[];
  readonly #mostBuckets: number;
  /** In the order of last use; one bucket per rate. */
  readonly #buckets = new Map<string, Bucket[]>();

  /** All rates must allow a call, such as 5 a minute and 20 an hour. */
  constructor(rates: readonly Rate[], mostBuckets = MOST_BUCKETS) {
    this.#rates = rates;
    this.#mostBuckets = mostBuckets;
  }

  get size(): number {
    return this.#buckets.size;
  }

  /** 0 when the call may go on, which takes one token; else how many milliseconds from now it might. */
  take(key: string, now: number = Date.now()): number {
    const buckets = this.#refilled(key, now);
    let waitMs = 0;
    for (const [i, rate] of this.#rates.entries()) {
      const tokens = buckets[i]?.tokens ?? 0;
      if (tokens < 1) waitMs = Math.max(waitMs, Math.ceil(((1 - tokens) * rate.perMs) / rate.burst));
    }
    if (waitMs === 0) for (const bucket of buckets) bucket.tokens -= 1;
    return waitMs;
  }

  /** What `take` would say, without taking. */
  waitMs(key: string, now: number = Date.now()): number {
    if (!this.#buckets.has(key)) return 0;
    const buckets = this.#refilled(key, now);
    return Math.max(
      0,
      ...this.#rates.map((rate, i) => {
        const tokens = buckets[i]?.tokens ?? 0;
        return tokens < 1 ? Math.ceil(((1 - tokens) * rate.perMs) / rate.burst) : 0;
      }),
    );
  }

  #refilled(key: string, now: number): Bucket[] {
    let buckets = this.#buckets.get(key);
    if (buckets === undefined) {
      if (this.#buckets.size >= this.#mostBuckets) {
        const oldest = this.#buckets.keys().next();
        if (oldest.done !== true) this.#buckets.delete(oldest.value);
      }
      buckets = this.#rates.map((rate) => ({ tokens: rate.burst, at: now }));
    } else {
      this.#buckets.delete(key);
      for (const [i, rate] of this.#rates.entries()) {
        const bucket = buckets[i];
        if (bucket === undefined) continue;
        // A clock that was set back gives nothing and takes nothing.
        const elapsed = Math.max(0, now - bucket.at);
        bucket.tokens = Math.min(rate.burst, bucket.tokens + (elapsed * rate.burst) / rate.perMs);
        bucket.at = now;
      }
    }
    this.#buckets.set(key, buckets);
    return buckets;
  }
}
