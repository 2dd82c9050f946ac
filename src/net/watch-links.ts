// Watching the machine's links, addresses, routes and rules: one call for each burst of changes.
import { realpathSync } from "node:fs";
import { basename } from "node:path";
import { backoffMs, sleep } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import { findTool, toolMissing } from "./exec.ts";

export interface WatchOptions {
  /** Called once soon after the start, and then after each burst; what changed is for the caller to read. */
  readonly onChange: () => void;
  readonly log: Logger;
  /** Ends the watching too. */
  readonly signal?: AbortSignal;
}

/** Counted from the first change of a burst, so that a machine whose routes never rest is served as well. */
const BURST_MS = 200;
const RESTART = { firstMs: 200, mostMs: 10_000 } as const;
/** A monitor that lived this long had no trouble of its own. */
const STEADY_MS = 10_000;

/** Throws ToolMissing. */
export function watchLinks(options: WatchOptions): Service {
  const path = findTool("ip");
  if (path === null) throw toolMissing("ip");
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  options.signal?.addEventListener("abort", stop, { once: true });
  if (options.signal?.aborted === true) stop();
  const loop = watch(path, options, controller.signal);
  return {
    async [Symbol.asyncDispose]() {
      options.signal?.removeEventListener("abort", stop);
      stop();
      await loop;
    },
  };
}

async function watch(path: string, options: WatchOptions, signal: AbortSignal): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const poke = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined;
      options.onChange();
    }, BURST_MS);
  };
  try {
    for (let attempt = 0; !signal.aborted; attempt++) {
      const startedMs = performance.now();
      poke(); // what happened while nobody watched
      await monitor(path, poke, signal);
      if (signal.aborted) return;
      if (performance.now() - startedMs > STEADY_MS) attempt = 0;
      options.log.warn({ attempt }, "the monitor of this machine's links ended and is started again");
      await sleep(backoffMs(attempt, RESTART), signal);
    }
  } catch (thrown) {
    if (!signal.aborted) options.log.error({ error: errorText(thrown) }, "this machine's links are no longer watched");
  } finally {
    clearTimeout(timer);
  }
}

/** The program and its arguments, ended by the kernel with this process where util-linux is there to ask for it. */
function tiedToUs(argv: readonly string[]): string[] {
  const setpriv = findTool("setpriv");
  // busybox has a setpriv too, which does not know the option.
  if (setpriv === null || basename(realpathSync(setpriv)) !== "setpriv") return [...argv];
  return [setpriv, "--pdeathsig", "KILL", "--", ...argv];
}

/** Resolves when the child is over. Should we be killed, it ends with us, or else at the next change, which it cannot tell anybody. */
async function monitor(path: string, poke: () => void, signal: AbortSignal): Promise<void> {
  const child = Bun.spawn(tiedToUs([path, "monitor", "link", "address", "route", "rule"]), {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
    env: { LC_ALL: "C" },
  });
  const kill = (): void => child.kill("SIGKILL");
  signal.addEventListener("abort", kill, { once: true });
  if (signal.aborted) kill();
  try {
    for await (const _ of child.stdout) poke();
    await child.exited;
  } finally {
    signal.removeEventListener("abort", kill);
    kill();
  }
}
