// Looking again and again at what tells nobody of a change, and telling when it is no more as it was set.
import { repeat, Stopped } from "../base/async.ts";
import type { Service } from "../base/service.ts";

/** Somebody may change it again right after it was mended. */
const PROMPT_LOOKS = 4;
/** Somebody's change is mended within a second. */
const LOOK_MS = 500;

/** "changed": since it was last found as it should be. "wrong": not as it should be, and maybe beyond mending. */
export type Look = "right" | "changed" | "wrong";

export interface DifferenceWatch {
  /** It costs little, and may fail: it is asked again. */
  readonly look: (signal: AbortSignal) => Promise<Look>;
  readonly onChange: () => void;
}

/** Calls `onChange` for a change at once, and while something stays wrong, less and less often. */
export function watchDifferences({ look, onChange }: DifferenceWatch): Service {
  const controller = new AbortController();
  let looks = 0; // in a row that found it wrong
  const task = async (signal: AbortSignal): Promise<void> => {
    const found = await look(signal);
    looks = found === "wrong" ? looks + 1 : found === "changed" ? 1 : 0;
    if (looks > 0 && (looks <= PROMPT_LOOKS || Number.isInteger(Math.log2(looks)))) onChange();
  };
  const loop = repeat(task, { everyMs: LOOK_MS, signal: controller.signal, onError: () => undefined }); // it is looked at again
  return {
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await loop;
    },
  };
}
