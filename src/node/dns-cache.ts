// Answers that were given before, for as long as they say that they hold, also that a name does not exist; bounded in number and bytes.
import { type Message, RCODE, TYPE, u32 } from "./dns-message.ts";

interface Entry {
  readonly answer: Uint8Array;
  readonly ttlsAt: readonly number[];
  readonly sinceMs: number;
  readonly untilMs: number;
}

export interface CacheLimits {
  readonly entries: number;
  readonly bytes: number;
}

const LIMITS: CacheLimits = { entries: 8_192, bytes: 8 * 1024 * 1024 };
/** RFC 8767 section 4: nobody needs more than a week; a day is enough for a resolver that has its upstreams near. */
const MOST_TTL_S = 86_400;
/** RFC 2308 section 5: one to three hours work well for what does not exist. */
const MOST_NEGATIVE_TTL_S = 3_600;

/** The oldest use goes first. */
export class DnsCache {
  readonly #limits: CacheLimits;
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(limits: CacheLimits = LIMITS) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** With the time that each record has left; still with the id and the spelling of whoever asked first. */
  get(key: string, nowMs: number): Uint8Array | null {
    const entry = this.#entries.get(key);
    if (entry === undefined) return null;
    this.#drop(key);
    if (nowMs >= entry.untilMs || nowMs < entry.sinceMs) return null; // over, or the clock went back
    this.#keep(key, entry);
    const ageS = Math.floor((nowMs - entry.sinceMs) / 1000);
    const copy = new Uint8Array(entry.answer);
    const view = new DataView(copy.buffer);
    for (const at of entry.ttlsAt) view.setUint32(at, Math.max(0, u32(copy, at) - ageS));
    return copy;
  }

  /** Does nothing for an answer that must not be kept. */
  put(key: string, kept: { readonly answer: Uint8Array; readonly message: Message }, nowMs: number): void {
    const ttlS = ttlOf(kept.message, kept.answer);
    if (ttlS <= 0 || kept.answer.length > this.#limits.bytes / 16) return;
    this.#drop(key);
    const ttlsAt = kept.message.records.filter(hasTtl).map((record) => record.ttlAt);
    const answer = new Uint8Array(kept.answer);
    this.#keep(key, { answer, ttlsAt, sinceMs: nowMs, untilMs: nowMs + ttlS * 1000 });
    while (this.#entries.size > this.#limits.entries || this.#bytes > this.#limits.bytes) {
      const oldest = this.#entries.keys().next();
      if (oldest.done === true) return;
      this.#drop(oldest.value);
    }
  }

  #keep(key: string, entry: Entry): void {
    this.#entries.set(key, entry);
    this.#bytes += entry.answer.length + key.length;
  }

  #drop(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#bytes -= entry.answer.length + key.length;
  }
}

/** OPT has flags where others have their time (RFC 6891 section 6.1.3). */
function hasTtl(record: { readonly type: number }): boolean {
  return record.type !== TYPE.opt;
}

/** Seconds; 0 for what must not be kept. */
export function ttlOf(message: Message, bytes: Uint8Array): number {
  if (!message.isResponse || message.isTruncated) return 0;
  const { records, rcode } = message;
  const least = Math.min(...records.filter(hasTtl).map((record) => record.ttl));
  const hasAnswer = records.some((record) => record.section === "answer");
  if (rcode === RCODE.noError && hasAnswer) return Math.min(least, MOST_TTL_S);
  if (rcode !== RCODE.noError && rcode !== RCODE.nameError) return 0;
  // RFC 2308 section 5: the start of authority says how long a name does not exist; without one nobody may remember it.
  const soa = records.find((record) => record.section === "authority" && record.type === TYPE.soa);
  if (soa === undefined || soa.length < 20) return 0;
  const minimum = u32(bytes, soa.dataAt + soa.length - 4);
  return Math.min(least, minimum, MOST_NEGATIVE_TTL_S);
}
