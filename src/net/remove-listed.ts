// Takes away what is listed while others take it away too: what a failed removal has left is listed and tried again.
import { ToolFailed } from "./exec.ts";

/**
 * `list`: the lines by which `remove` takes away all that is there. What went by itself in between, as routes do whose interface dies,
 * fails the removal of the rest: as long as less is left, that is tried again. True when there was any; throws the tool's own failure.
 */
export async function removeListed(
  list: () => Promise<readonly string[]>,
  remove: (lines: readonly string[]) => Promise<void>,
): Promise<boolean> {
  let last = Infinity;
  let failure: ToolFailed | undefined;
  for (;;) {
    const lines = await list();
    if (lines.length === 0) return last < Infinity;
    if (lines.length >= last && failure !== undefined) throw failure;
    last = lines.length;
    try {
      await remove(lines);
      return true;
    } catch (thrown) {
      if (!(thrown instanceof ToolFailed)) throw thrown;
      failure = thrown;
    }
  }
}

/** One after the other, each whatever becomes of those before it; then the first failure is thrown. */
export async function tryEach<T, R>(all: readonly T[], work: (one: T) => Promise<R>): Promise<readonly R[]> {
  const done: R[] = [];
  const failures: unknown[] = [];
  for (const one of all) {
    try {
      done.push(await work(one));
    } catch (thrown) {
      failures.push(thrown);
    }
  }
  if (failures.length > 0) throw failures[0];
  return done;
}

/** As tryEach; true when any was there. */
export async function removeEach<T>(all: readonly T[], remove: (one: T) => Promise<boolean>): Promise<boolean> {
  return (await tryEach(all, remove)).includes(true);
}
