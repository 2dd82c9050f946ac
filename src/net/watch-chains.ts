// Watching the machine's iptables rules, of which nobody tells: they are read again and again, and one call follows each change.
import { repeat } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import type { Service } from "../base/service.ts";
import type { Exec } from "./exec.ts";
import type { Iptables } from "./firewall/iptables.ts";
import type { WatchOptions } from "./monitor.ts";

/** What a flush opens is open for at most this long and the time of mending it: within a second. */
const EVERY_MS = 500;

/**
 * Rules that were mended and flushed again between two looks look like a flush that nobody mended, so a change is told again at some
 * looks after it: whoever is told compares with what he wants.
 */
const TOLD_AGAIN = 4;

export interface Seen {
  readonly text: string | null;
  /** At how many looks to come a change is told in any case. */
  readonly due: number;
}

/** Pure: what is kept of a look, and whether it is told. */
export function afterLook(seen: Seen, text: string): { readonly seen: Seen; readonly isTold: boolean } {
  const due = text === seen.text ? seen.due : 1 + TOLD_AGAIN;
  return { seen: { text, due: Math.max(0, due - 1) }, isTold: due > 0 };
}

/** Calls `onChange` once soon after the start too. */
export function watchChains(exec: Exec, commands: readonly Iptables[], options: WatchOptions): Service {
  const controller = new AbortController();
  const signal =
    options.signal === undefined ? controller.signal : AbortSignal.any([controller.signal, options.signal]);
  let seen: Seen = { text: null, due: 0 };
  let isTold = false;
  const look = async (): Promise<void> => {
    const texts: string[] = [];
    for (const { save } of commands) texts.push(rulesIn((await exec.run([save], { signal })).stdout));
    const after = afterLook(seen, texts.join("\n"));
    seen = after.seen;
    if (after.isTold) options.onChange();
    isTold = false;
  };
  const tell = (thrown: unknown): void => {
    if (!isTold) options.log.warn({ error: errorText(thrown) }, "cannot look at the firewall's rules");
    isTold = true;
  };
  const watching = repeat(look, { everyMs: EVERY_MS, signal, onError: tell });
  return {
    async [Symbol.asyncDispose]() {
      controller.abort();
      await watching;
    },
  };
}

/** Without the time of the listing and the counters. */
function rulesIn(text: string): string {
  return text
    .split("\n")
    .filter((line) => !line.startsWith("#"))
    .map((line) => line.replace(/ \[\d+:\d+\]$/, ""))
    .join("\n");
}
