// Telling a process that hangs from one that is busy: what hangs does not even say hello.
import { DeadlineExceeded, sleep, withDeadline } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";
import { lockOwner } from "../net/single-instance.ts";
import type { AnyRole } from "../roles/config.ts";

/** The running process answers nothing; `detail.pid` is its number. */
export class RoleHangs extends HiggsError {
  override readonly name = "RoleHangs";
}

interface Target {
  readonly role: AnyRole;
  readonly runDir: string;
}

/** How long a request may take before somebody asks whether anybody is there. */
const PATIENCE_MS = 5_000;
/** A process answers to this whatever else it is at; a busy machine may take its time. */
const HELLO_MS = 5_000;

/** Resolves with the greeting, or throws RoleHangs. */
export async function greet<T>(
  target: Target,
  hello: (signal: AbortSignal) => Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  try {
    return await withDeadline(`ask the ${target.role}`, hello, { timeoutMs: HELLO_MS, signal });
  } catch (thrown) {
    if (!(thrown instanceof DeadlineExceeded)) throw thrown;
    const pid = (await lockOwner(target.runDir).catch(() => null))?.pid ?? null;
    throw new RoleHangs(`Cannot ask the ${target.role}: ${pid === null ? "its process" : `process ${pid}`} hangs.`, {
      code: "timeout",
      ...(pid === null ? {} : { remedy: `sudo kill -9 ${pid}   and then the same command again` }),
      detail: { pid },
      cause: thrown,
    });
  }
}

/** As `work`, however long it takes; throws RoleHangs as soon as the process does not say hello any more. */
export async function unlessItHangs<T>(
  target: Target,
  asking: {
    readonly work: (signal: AbortSignal) => Promise<T>;
    readonly hello: (signal: AbortSignal) => Promise<unknown>;
  },
  signal: AbortSignal,
): Promise<T> {
  const over = new AbortController();
  const ended = AbortSignal.any([over.signal, signal]);
  const watch = async (): Promise<never> => {
    for (;;) {
      await sleep(PATIENCE_MS, ended);
      await greet(target, asking.hello, ended);
    }
  };
  const hung = watch().catch((thrown: unknown) => {
    if (thrown instanceof RoleHangs) throw thrown;
    return new Promise<never>(() => undefined); // it ended, or is not for us to greet: the request itself tells
  });
  try {
    return await Promise.race([asking.work(ended), hung]);
  } finally {
    over.abort();
  }
}
