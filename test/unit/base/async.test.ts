import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import fc from "fast-check";
import {
  backoffMs,
  Debounce,
  DeadlineExceeded,
  raceAbort,
  repeat,
  SerialQueue,
  sleep,
  Stopped,
  withDeadline,
} from "../../../src/base/async.ts";
import { check } from "../support/property.ts";

const never = (): Promise<never> => new Promise(() => undefined);
const live = (): AbortSignal => new AbortController().signal;

/** Lets everything run that waits for no timer. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

/** What became of a promise so far. */
function watch(promise: Promise<unknown>): { state: "waiting" | "done" | "failed"; value?: unknown } {
  const seen: { state: "waiting" | "done" | "failed"; value?: unknown } = { state: "waiting" };
  promise.then(
    (value) => Object.assign(seen, { state: "done", value }),
    (thrown: unknown) => Object.assign(seen, { state: "failed", value: thrown }),
  );
  return seen;
}

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

describe("sleep()", () => {
  test("sleep() resolves after its time and not before", async () => {
    const seen = watch(sleep(1000, live()));
    jest.advanceTimersByTime(999);
    await settle();
    expect(seen.state).toBe("waiting");
    jest.advanceTimersByTime(1);
    await settle();
    expect(seen.state).toBe("done");
  });

  test("sleep() throws the signal's reason at once, and leaves no timer", async () => {
    const controller = new AbortController();
    const seen = watch(sleep(1000, controller.signal));
    const reason = new Stopped();
    controller.abort(reason);
    await settle();
    expect(seen).toEqual({ state: "failed", value: reason });
    expect(jest.getTimerCount()).toBe(0);
  });

  test("sleep() under a signal that was aborted before does not wait", async () => {
    const reason = new Stopped();
    const seen = watch(sleep(1000, AbortSignal.abort(reason)));
    await settle();
    expect(seen).toEqual({ state: "failed", value: reason });
    expect(jest.getTimerCount()).toBe(0);
  });
});

describe("withDeadline()", () => {
  test("withDeadline() gives the work's result and leaves no timer", async () => {
    expect(await withDeadline("probe", async () => 5, { timeoutMs: 1000, signal: live() })).toBe(5);
    expect(jest.getTimerCount()).toBe(0);
  });

  test("withDeadline() passes on the work's own failure and leaves no timer", async () => {
    const failure = new Error("broken");
    const seen = watch(withDeadline("probe", () => Promise.reject(failure), { timeoutMs: 1000, signal: live() }));
    await settle();
    expect(seen).toEqual({ state: "failed", value: failure });
    expect(jest.getTimerCount()).toBe(0);
  });

  test("withDeadline() throws DeadlineExceeded, and aborts the work with it, when the time is over", async () => {
    let given = live();
    const seen = watch(
      withDeadline(
        "reach the server",
        (signal) => {
          given = signal;
          return never();
        },
        { timeoutMs: 1500, signal: live() },
      ),
    );
    jest.advanceTimersByTime(1499);
    await settle();
    expect([seen.state, given.aborted]).toEqual(["waiting", false]);
    jest.advanceTimersByTime(1);
    await settle();
    expect(seen.value).toBeInstanceOf(DeadlineExceeded);
    expect(seen.value).toMatchObject({ code: "timeout", message: "Cannot reach the server: no answer within 1.5 s." });
    expect(given.reason).toBe(seen.value);
  });

  test("withDeadline() aborts the work with the outer signal's reason, also when it ignores the signal", async () => {
    const controller = new AbortController();
    const reason = new Stopped();
    let given = live();
    const seen = watch(
      withDeadline(
        "probe",
        (signal) => {
          given = signal;
          return never();
        },
        { timeoutMs: 1000, signal: controller.signal },
      ),
    );
    controller.abort(reason);
    await settle();
    expect(seen).toEqual({ state: "failed", value: reason });
    expect(given.reason).toBe(reason);
    expect(jest.getTimerCount()).toBe(0);
  });

  test("withDeadline() under an aborted signal throws its reason and hands the work an aborted signal", async () => {
    const reason = new Stopped();
    const aborted: boolean[] = [];
    const seen = watch(
      withDeadline(
        "probe",
        (signal) => {
          aborted.push(signal.aborted);
          return never();
        },
        { timeoutMs: 1000, signal: AbortSignal.abort(reason) },
      ),
    );
    await settle();
    expect(seen).toEqual({ state: "failed", value: reason });
    expect(aborted).toEqual([true]);
  });

  test("withDeadline() does not abort the work's signal once it is over", async () => {
    const controller = new AbortController();
    let given = live();
    await withDeadline(
      "probe",
      async (signal) => {
        given = signal;
      },
      { timeoutMs: 1000, signal: controller.signal },
    );
    controller.abort(new Stopped());
    jest.advanceTimersByTime(2000);
    expect(given.aborted).toBe(false);
  });
});

describe("raceAbort()", () => {
  test("raceAbort() gives what the promise gives when nothing aborts", async () => {
    expect(await raceAbort(Promise.resolve(7), live())).toBe(7);
  });

  test("raceAbort() swallows a failure that comes after the abort", async () => {
    const controller = new AbortController();
    const late = Promise.withResolvers<never>();
    const seen = watch(raceAbort(late.promise, controller.signal));
    const reason = new Stopped();
    controller.abort(reason);
    late.reject(new Error("too late to matter")); // an unhandled rejection would fail this test
    await settle();
    expect(seen).toEqual({ state: "failed", value: reason });
  });
});

describe("backoffMs()", () => {
  const backoff = { firstMs: 200, mostMs: 5000 };

  test("backoffMs() doubles its bound with each attempt up to the most", () => {
    const almostOne = (): number => 1 - Number.EPSILON;
    const bounds = Array.from({ length: 8 }, (_, attempt) => backoffMs(attempt, backoff, almostOne) + 1);
    expect(bounds).toEqual([200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    expect(backoffMs(1e9, backoff, almostOne)).toBe(4999);
  });

  test("backoffMs() stays between zero and its bound for every attempt and every draw", () => {
    const draw = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
    check(
      fc.property(fc.nat(2000), draw, (attempt, random) => {
        const ms = backoffMs(attempt, backoff, () => random);
        expect(Number.isInteger(ms)).toBe(true);
        expect(ms).toBeGreaterThanOrEqual(0);
        expect(ms).toBeLessThan(Math.min(5000, 200 * 2 ** Math.min(attempt, 30)));
      }),
    );
  });

  test("backoffMs() spreads machines that failed together over the whole time", () => {
    const waits = Array.from({ length: 10 }, (_, nth) => backoffMs(0, backoff, () => nth / 10));
    expect(waits).toEqual([0, 20, 40, 60, 80, 100, 120, 140, 160, 180]);
  });
});

describe("SerialQueue", () => {
  test("SerialQueue runs one task at a time, in the order of the calls", async () => {
    const queue = new SerialQueue();
    const events: string[] = [];
    const task = (name: string, ms: number) => async (): Promise<string> => {
      events.push(`${name} starts`);
      await sleep(ms, live());
      events.push(`${name} ends`);
      return name;
    };
    const results = Promise.all([queue.run(task("a", 300)), queue.run(task("b", 10)), queue.run(task("c", 100))]);
    for (let step = 0; step < 3; step++) {
      await settle();
      jest.advanceTimersByTime(300);
    }
    expect(await results).toEqual(["a", "b", "c"]);
    expect(events).toEqual(["a starts", "a ends", "b starts", "b ends", "c starts", "c ends"]);
  });

  test("SerialQueue gives a failure to its caller alone and goes on with the next task", async () => {
    const queue = new SerialQueue();
    const failure = new Error("broken");
    const first = watch(queue.run(() => Promise.reject(failure)));
    const second = watch(queue.run(async () => "next"));
    await queue.idle();
    await settle();
    expect(first).toEqual({ state: "failed", value: failure });
    expect(second).toEqual({ state: "done", value: "next" });
  });

  test("SerialQueue takes a task that throws before it waits for a failed one", async () => {
    const queue = new SerialQueue();
    const first = watch(
      queue.run(() => {
        throw new Error("at once");
      }),
    );
    await queue.idle();
    expect(await queue.run(async () => "next")).toBe("next");
    expect(first.state).toBe("failed");
  });

  test("SerialQueue.idle() waits for what was queued before it", async () => {
    const queue = new SerialQueue();
    const idle = watch(queue.idle());
    await settle();
    expect(idle.state).toBe("done");
    const gate = Promise.withResolvers<undefined>();
    void queue.run(() => gate.promise);
    const busy = watch(queue.idle());
    await settle();
    expect(busy.state).toBe("waiting");
    gate.resolve(undefined);
    await settle();
    expect(busy.state).toBe("done");
  });
});

describe("repeat()", () => {
  test("repeat() waits first, calls again and again, and ends quietly on abort", async () => {
    const controller = new AbortController();
    let calls = 0;
    const errors: unknown[] = [];
    const seen = watch(
      repeat(
        async () => {
          calls++;
        },
        { everyMs: 100, signal: controller.signal, onError: (thrown) => errors.push(thrown) },
      ),
    );
    await settle();
    expect(calls).toBe(0);
    for (let round = 1; round <= 3; round++) {
      jest.advanceTimersByTime(100);
      await settle();
      expect(calls).toBe(round);
    }
    controller.abort(new Stopped());
    await settle();
    expect(seen.state).toBe("done");
    expect(errors).toEqual([]);
    expect(jest.getTimerCount()).toBe(0);
  });

  test("repeat() reports a task that throws, and goes on after the next wait", async () => {
    const controller = new AbortController();
    const failure = new Error("broken");
    const errors: unknown[] = [];
    void repeat(() => Promise.reject(failure), {
      everyMs: 100,
      signal: controller.signal,
      onError: (thrown) => errors.push(thrown),
    });
    for (let round = 0; round < 3; round++) {
      await settle();
      jest.advanceTimersByTime(100);
    }
    await settle();
    expect(errors).toEqual([failure, failure, failure]);
    controller.abort(new Stopped());
    await settle();
  });

  test("repeat() ends quietly when its task throws because of the abort", async () => {
    const controller = new AbortController();
    const errors: unknown[] = [];
    const seen = watch(
      repeat((signal) => sleep(1e6, signal), {
        everyMs: 100,
        signal: controller.signal,
        onError: (thrown) => errors.push(thrown),
      }),
    );
    await settle();
    jest.advanceTimersByTime(100);
    await settle();
    controller.abort(new Stopped());
    await settle();
    expect([seen.state, errors]).toEqual(["done", []]);
  });

  test("repeat() waits between everyMs and everyMs + jitterMs", async () => {
    const controller = new AbortController();
    let nowMs = 0;
    const calledMs: number[] = [];
    const loop = repeat(
      async () => {
        calledMs.push(nowMs);
      },
      { everyMs: 100, jitterMs: 50, signal: controller.signal, onError: () => undefined },
    );
    for (; nowMs < 3000; nowMs++) {
      await settle();
      jest.advanceTimersByTime(1);
    }
    controller.abort(new Stopped());
    await loop;
    const waits = calledMs.slice(1).map((ms, nth) => ms - (calledMs[nth] ?? 0));
    expect(waits.length).toBeGreaterThanOrEqual(18);
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(100);
    expect(Math.max(...waits)).toBeLessThanOrEqual(151); // the clock of this test moves in whole milliseconds
  });
});

describe("Debounce", () => {
  test("Debounce calls once, after the last of a burst", () => {
    let calls = 0;
    const debounce = new Debounce(() => calls++, 100);
    for (let poke = 0; poke < 5; poke++) {
      debounce.poke();
      jest.advanceTimersByTime(99);
    }
    expect(calls).toBe(0);
    jest.advanceTimersByTime(1);
    expect(calls).toBe(1);
    debounce.poke();
    jest.advanceTimersByTime(100);
    expect(calls).toBe(2);
  });

  test("Debounce.cancel() keeps a call from coming, and a later poke starts anew", () => {
    let calls = 0;
    const debounce = new Debounce(() => calls++, 100);
    debounce.poke();
    debounce.cancel();
    jest.advanceTimersByTime(500);
    expect(calls).toBe(0);
    debounce.poke();
    jest.advanceTimersByTime(100);
    expect(calls).toBe(1);
  });
});
