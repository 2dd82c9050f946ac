// Watching what no monitor program of the platform tells: looked at again and again, one call for each look that sees a change.
import { networkInterfaces } from "node:os";
import { repeat, Stopped } from "../base/async.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";

export interface PollingOptions {
  readonly everyMs: number;
  readonly onChange: () => void;
  readonly log: Logger;
}

/** The first look is after `everyMs`. One that fails is told to nobody: the next may not. */
export function polling(hasChanged: (signal: AbortSignal) => Promise<boolean>, options: PollingOptions): Service {
  const { everyMs, onChange, log } = options;
  const controller = new AbortController();
  const { signal } = controller;
  const look = async (): Promise<void> => {
    if (await hasChanged(signal)) onChange();
  };
  const onError = (thrown: unknown): void => log.debug({ reason: String(thrown) }, "cannot look at this machine");
  const loop = repeat(look, { everyMs, signal, onError });
  return {
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await loop;
    },
  };
}

/** This machine's interfaces and addresses, read in this process, which costs no other; true the first time, and whenever they differ. */
export function addressesDiffer(read: () => unknown = networkInterfaces): () => Promise<boolean> {
  let before: string | null = null;
  return () => {
    const now = JSON.stringify(read());
    const differ = now !== before;
    before = now;
    return Promise.resolve(differ);
  };
}
