// How long a message takes to a machine and back, measured with the WebSocket's own pings.
import { equalBytes } from "../../base/bytes.ts";

/** The quickest of so many counts: what is slower waited behind something else. */
const SAMPLES = 4;
const EVERY_MS = 10_000;
const PAYLOAD_BYTES = 8;

export class RoundTrip {
  #asked: { readonly payload: Uint8Array; readonly at: number } | null = null;
  #lastAt = Number.NEGATIVE_INFINITY;
  #samples: readonly number[] = [];

  /** Null before the first answer. */
  get ms(): number | null {
    return this.#samples.length === 0 ? null : Math.min(...this.#samples);
  }

  isDue(now: number): boolean {
    return now - this.#lastAt >= EVERY_MS;
  }

  /** The payload of the ping that is sent now; one that is still under way counts no more. */
  ask(now: number): Uint8Array<ArrayBuffer> {
    const payload = crypto.getRandomValues(new Uint8Array(PAYLOAD_BYTES));
    this.#asked = { payload, at: now };
    this.#lastAt = now;
    return payload;
  }

  /** False for the answer to another ping than the last of ours. */
  answered(payload: Uint8Array, now: number): boolean {
    if (this.#asked === null || !equalBytes(payload, this.#asked.payload)) return false;
    this.#samples = [...this.#samples, Math.max(0, now - this.#asked.at)].slice(-SAMPLES);
    this.#asked = null;
    return true;
  }
}
