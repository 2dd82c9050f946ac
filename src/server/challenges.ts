// Challenges that cost the server no memory: each carries its time and a seal, so that nobody can push out another's by asking for many.
//
//   | made at u64 | random 8 | seal 16 |        32 bytes; Unix milliseconds, big-endian
//
//   seal = first 16 bytes of HMAC-SHA-256 over | machine id, 36 characters | made at u64 | random 8 |, key: 32 random bytes of this start
//
// Only those that were answered are remembered, until they would be too old: each counts once.
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { ByteReader, ByteWriter, concatBytes, equalSecrets, fromBase64Url, toBase64Url, utf8 } from "../base/bytes.ts";
import type { MachineId } from "../proto/keys.ts";

/** Long enough for a slow line. */
export const CHALLENGE_MS = 60_000;
const HEAD_BYTES = 16;
const SEAL_BYTES = 16;
/**
 * Answers of one minute that are remembered, some megabytes; the oldest goes first. Who could then use one a second time is the machine
 * itself: an answer is sent over TLS, and is worth nothing at another server.
 */
const MOST_USED = 65_536;

export class Challenges {
  readonly #key = crypto.getRandomValues(new Uint8Array(32));
  /** Until when each has to be remembered, in the order of their use. */
  readonly #used = new Map<string, number>();

  get size(): number {
    return this.#used.size;
  }

  /** In base64url. */
  issue(machine: MachineId, now: number): string {
    const random = crypto.getRandomValues(new Uint8Array(8));
    const head = new ByteWriter().u64(BigInt(now)).bytes(random).finish();
    return toBase64Url(concatBytes(head, this.#seal(machine, head)));
  }

  /** Its bytes, once: from then on it is used up. Null for one that is unknown, another machine's, used or too old. */
  use(machine: MachineId, text: string, now: number): Uint8Array | null {
    const bytes = fromBase64Url(text);
    if (bytes?.length !== HEAD_BYTES + SEAL_BYTES) return null;
    const head = bytes.subarray(0, HEAD_BYTES);
    if (!equalSecrets(this.#seal(machine, head), bytes.subarray(HEAD_BYTES))) return null;
    const madeAt = Number(new ByteReader(head).u64());
    // From the future: the clock was set back since.
    if (madeAt > now || now - madeAt >= CHALLENGE_MS || this.#used.has(text)) return null;
    if (this.#used.size >= MOST_USED) {
      const oldest = this.#used.keys().next();
      if (oldest.done !== true) this.#used.delete(oldest.value);
    }
    this.#used.set(text, madeAt + CHALLENGE_MS);
    return bytes;
  }

  sweep(now: number): void {
    for (const [text, until] of this.#used) if (until <= now) this.#used.delete(text);
  }

  #seal(machine: MachineId, head: Uint8Array): Uint8Array {
    return hmac(sha256, this.#key, concatBytes(utf8(machine), head)).subarray(0, SEAL_BYTES);
  }
}
