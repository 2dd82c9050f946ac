// Watching the machine's addresses where no monitor program tells: looked at in this process, which costs no other.
import { networkInterfaces } from "node:os";
import { repeat, Stopped } from "../base/async.ts";
import type { Service } from "../base/service.ts";

const LOOK_MS = 2_000;

/** Calls `onChange` once soon after the start, and whenever interfaces or addresses changed. Routes alone are seen at the next event. */
export function pollLinks(options: { readonly onChange: () => void; readonly look?: () => unknown }): Service {
  const controller = new AbortController();
  const look = options.look ?? networkInterfaces;
  let before: string | null = null;
  const loop = repeat(
    () => {
      const now = JSON.stringify(look());
      if (now !== before) options.onChange();
      before = now;
      return Promise.resolve();
    },
    { everyMs: LOOK_MS, signal: controller.signal, onError: () => undefined }, // it is looked at again
  );
  return {
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await loop;
    },
  };
}
