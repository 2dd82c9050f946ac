// Watching the kernel settings that a role changed: nothing tells of a write to /proc/sys, so they are looked at, which costs microseconds.
import { repeat, Stopped } from "../base/async.ts";
import type { Service } from "../base/service.ts";
import type { Sysctl } from "./sysctl.ts";

/** Somebody may change it again right after it was mended. */
const PROMPT_LOOKS = 4;
/** Somebody's change is mended within a second. */
const LOOK_MS = 500;

/**
 * Calls `onChange` when a setting in the journal is no more as it was set: at once, and while it stays so, less and less often, as
 * somebody may not let it be written.
 */
export function watchSettings(sysctl: Pick<Sysctl, "verify">, options: { readonly onChange: () => void }): Service {
  const controller = new AbortController();
  let looks = 0; // in a row that saw a difference
  const look = async (): Promise<void> => {
    looks = (await sysctl.verify()).length === 0 ? 0 : looks + 1;
    if (looks > 0 && (looks <= PROMPT_LOOKS || Number.isInteger(Math.log2(looks)))) options.onChange();
  };
  const loop = repeat(look, { everyMs: LOOK_MS, signal: controller.signal, onError: () => undefined }); // it is looked at again
  return {
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await loop;
    },
  };
}
