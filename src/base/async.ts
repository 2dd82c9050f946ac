// Waiting, with a signal and a deadline: sleep, deadlines, jittered backoff, a serial queue, and loops that end.
import { HiggsError } from "./errors.ts";

export class DeadlineExceeded extends HiggsError {
  override readonly name = "DeadlineExceeded";
}

/** What a service gives its own controller when it is disposed. */
export class Stopped extends Error {
  override readonly name = "Stopped";
}

/** Resolves after `ms`, or throws `signal.reason` at once on abort. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason as Error);
      return;
    }
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}

/** Runs `work` with a signal that aborts with DeadlineExceeded after `timeoutMs`, or with the outer signal's reason before. */
export async function withDeadline<T>(
  what: string,
  work: (signal: AbortSignal) => Promise<T>,
  options: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<T> {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) onAbort();
  options.signal.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(() => {
    controller.abort(
      new DeadlineExceeded(`Cannot ${what}: no answer within ${options.timeoutMs / 1000} s.`, { code: "timeout" }),
    );
  }, options.timeoutMs);
  try {
    return await raceAbort(work(controller.signal), controller.signal);
  } finally {
    clearTimeout(timer);
    options.signal.removeEventListener("abort", onAbort);
  }
}

/** The promise, or `signal.reason` as soon as the signal aborts. The promise itself goes on; its late failure is swallowed. */
export function raceAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

export interface Backoff {
  /** Longest wait of the first attempt. */
  readonly firstMs: number;
  /** Longest wait of any attempt. */
  readonly mostMs: number;
}

/** Full jitter: uniform between zero and the exponential bound, so that many machines spread out. `attempt` counts from 0. */
export function backoffMs(attempt: number, backoff: Backoff, random: () => number = Math.random): number {
  const bound = Math.min(backoff.mostMs, backoff.firstMs * 2 ** Math.min(attempt, 30));
  return Math.floor(random() * bound);
}

/** Runs tasks one after the other, in the order of their calls; a task that fails does not stop the next. */
export class SerialQueue {
  #tail: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(task, task);
    this.#tail = result.catch(() => undefined); // the caller of run() has the failure
    return result;
  }

  /** Resolves when everything that was queued so far is done. */
  async idle(): Promise<void> {
    await this.#tail;
  }
}

/**
 * Calls `task` every `everyMs` (with up to `jitterMs` more) until the signal aborts; the first call comes after the first wait.
 * A task that throws is reported and the loop goes on.
 */
export async function repeat(
  task: (signal: AbortSignal) => Promise<void>,
  options: {
    readonly everyMs: number;
    readonly jitterMs?: number;
    readonly signal: AbortSignal;
    readonly onError: (thrown: unknown) => void;
  },
): Promise<void> {
  while (!options.signal.aborted) {
    try {
      await sleep(options.everyMs + Math.random() * (options.jitterMs ?? 0), options.signal);
      await task(options.signal);
    } catch (thrown) {
      if (options.signal.aborted) return;
      options.onError(thrown);
    }
  }
}

/** Calls `task` once, `waitMs` after the last of a burst of `poke` calls. */
export class Debounce {
  readonly #task: () => void;
  readonly #waitMs: number;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(task: () => void, waitMs: number) {
    this.#task = task;
    this.#waitMs = waitMs;
  }

  poke(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#task, this.#waitMs);
  }

  cancel(): void {
    clearTimeout(this.#timer);
  }
}
