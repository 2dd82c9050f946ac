// Asking a role's running process to end, and waiting until it is gone: only then may the next one start.
import { z } from "zod";
import { sleep } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";
import { isAlive, processOf } from "../net/process-identity.ts";
import { ask, type LocalRole } from "./local.ts";

export class NotEnding extends HiggsError {
  override readonly name = "NotEnding";
}

const TIMEOUT_MS = 20_000;
const POLL_MS = 15;
const hello = z.object({ pid: z.number().int().positive() });

/** As endRunning; false where no process of the role runs, or not any more. */
export async function endIfRunning(target: LocalRole, verb: "down" | "stop", signal: AbortSignal): Promise<boolean> {
  try {
    await endRunning(target, verb, signal);
    return true;
  } catch (thrown) {
    if (isNotRunning(thrown)) return false;
    throw thrown;
  }
}

/** Sends `verb`, whose answer may say that the process goes on. Throws LocalApiError, or NotEnding `timeout`. */
export async function endRunning(target: LocalRole, verb: "down" | "stop", signal: AbortSignal): Promise<void> {
  const running = processOf(hello.parse(await ask(target, "hello", { signal })).pid);
  const said = await ask(target, verb, { signal }).catch((thrown: unknown) => {
    if (!isNotRunning(thrown)) throw thrown;
    return null; // somebody else asked it to end just now, and it did
  });
  const answer = z.object({ ends: z.boolean() }).safeParse(said);
  if (running === null || (answer.success && !answer.data.ends)) return;
  const deadline = performance.now() + TIMEOUT_MS;
  // Its sockets go first and its lock goes last; the process itself is the only thing to wait for.
  while (isAlive(running)) {
    if (performance.now() > deadline) {
      throw new NotEnding(`Cannot go on: the running ${target.role} (process ${running.pid}) does not end.`, {
        code: "timeout",
        remedy: `higgs logs --role ${target.role}`,
      });
    }
    await sleep(POLL_MS, signal);
  }
}

function isNotRunning(thrown: unknown): boolean {
  return thrown instanceof HiggsError && thrown.code === "not-running";
}
