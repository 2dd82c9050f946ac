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

/** Each is tried, whatever becomes of the others; then the first failure is thrown. True when any was. */
export async function removeEach<T>(all: readonly T[], remove: (one: T) => Promise<boolean>): Promise<boolean> {
  let wasAny = false;
  const failures: unknown[] = [];
  for (const one of all) {
    try {
      wasAny = (await remove(one)) || wasAny;
    } catch (thrown) {
      failures.push(thrown);
    }
  }
  if (failures.length > 0) throw failures[0];
  return wasAny;
}
