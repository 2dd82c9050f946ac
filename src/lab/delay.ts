// The lab's long lines: takes each frame off one TAP device, holds it for a while, and puts it on the other.
//
// The kernel of many a machine has no netem; this needs TAP alone. A line is a cable for whatever runs over it: ARP, both
// families, NAT and connection tracking on either side see nothing of it.
import { Stopped } from "../base/async.ts";
import type { Service } from "../base/service.ts";
import { openTaps, type Tap } from "./tap.ts";

export interface DelayedLine {
  /** The names of two TAP devices that are there and up. */
  readonly near: string;
  readonly far: string;
  readonly delayMs: number;
  readonly jitterMs: number;
  /** Null for all. */
  readonly only: "tcp" | "udp" | null;
}

/** IANA's protocol numbers. */
const PROTOCOLS = { tcp: 6, udp: 17 } as const;

/** The protocol of an Ethernet frame's packet, IPv4 or IPv6 without extension headers; null for anything else. */
export function protocolOf(frame: Uint8Array): number | null {
  const type = ((frame[12] ?? 0) << 8) | (frame[13] ?? 0);
  if (type === 0x0800) return frame[14 + 9] ?? null;
  return type === 0x86dd ? (frame[14 + 6] ?? null) : null;
}

/** One direction of a line: what was put in comes out later, in its order. Bounded: a frame that finds it full is lost. */
export class DelayLine {
  readonly #delayMs: number;
  readonly #jitterMs: number;
  readonly #random: () => number;
  #waiting: { readonly at: number; readonly frame: Uint8Array }[] = [];
  #first = 0;

  constructor(options: Pick<DelayedLine, "delayMs" | "jitterMs">, random: () => number = Math.random) {
    this.#delayMs = options.delayMs;
    this.#jitterMs = options.jitterMs;
    this.#random = random;
  }

  /** Milliseconds of one clock for all three. */
  get dueAt(): number {
    return this.#waiting[this.#first]?.at ?? Number.POSITIVE_INFINITY;
  }

  put(frame: Uint8Array, now: number): void {
    if (this.#waiting.length - this.#first >= MOST_WAITING) return;
    const last = this.#waiting.at(-1)?.at ?? Number.NEGATIVE_INFINITY;
    const at = Math.max(last, now + this.#delayMs + this.#random() * this.#jitterMs);
    this.#waiting.push({ at, frame: frame.slice() });
  }

  /** Null when none is due. */
  take(now: number): Uint8Array | null {
    const next = this.#waiting[this.#first];
    if (next === undefined || next.at > now) return null;
    this.#first++;
    if (this.#first >= COMPACT_AFTER || this.#first === this.#waiting.length) {
      this.#waiting = this.#waiting.slice(this.#first);
      this.#first = 0;
    }
    return next.frame;
  }
}

/** 50 ms at a gigabit, and some. */
const MOST_WAITING = 8_192;
const COMPACT_AFTER = 1_024;
/** Signals and timers wait so long at most. */
const MOST_WAIT_MS = 100;
/** Frames that are taken off one device before the others have their turn. */
const AT_ONCE = 64;

/** Resolves when the devices have it at their ends. */
export function runDelay(lines: readonly DelayedLine[]): Promise<Service> {
  const taps = openTaps();
  const directions = lines.flatMap((line) => {
    const [near, far] = [taps.open(line.near), taps.open(line.far)];
    return [
      { from: near, to: far, held: new DelayLine(line), only: line.only },
      { from: far, to: near, held: new DelayLine(line), only: line.only },
    ];
  });
  const ends = directions.map(({ from }) => from);
  const controller = new AbortController();

  function turn(): void {
    for (const { from, to, held, only } of directions) {
      for (let i = 0; i < AT_ONCE; i++) {
        const frame = from.read();
        if (frame === null) break;
        if (only === null || protocolOf(frame) === PROTOCOLS[only]) held.put(frame, performance.now());
        else to.write(frame);
      }
    }
    const now = performance.now();
    for (const { to, held } of directions) deliver(held, to, now);
    const nextAt = Math.min(...directions.map(({ held }) => held.dueAt));
    taps.wait(ends, Math.min(MOST_WAIT_MS, nextAt - performance.now()));
  }

  const running = (async (): Promise<void> => {
    while (!controller.signal.aborted) {
      const until = performance.now() + MOST_WAIT_MS;
      while (performance.now() < until) turn();
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  })();
  return Promise.resolve({
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await running;
      for (const tap of ends) tap[Symbol.dispose]();
    },
  });
}

function deliver(held: DelayLine, to: Tap, now: number): void {
  for (let frame = held.take(now); frame !== null; frame = held.take(now)) to.write(frame);
}
