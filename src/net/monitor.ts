// A platform's monitor program as a service: one call for each burst of what it prints, and a new start whenever it ends.
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

export interface Monitor {
  readonly argv: readonly [string, ...string[]];
  /** For the log: "links", "firewall rules". */
  readonly of: string;
  /** Counted from the first change of a burst, so that a machine that never rests is served as well. */
  readonly burstMs: number;
}

const RESTART = { firstMs: 200, mostMs: 10_000 } as const;
/** A monitor that lived this long had no trouble of its own. */
const STEADY_MS = 10_000;

/** Throws ToolMissing. */
export function watchMonitor(monitor: Monitor, options: WatchOptions): Service {
  const [tool, ...rest] = monitor.argv;
  const path = findTool(tool);
  if (path === null) throw toolMissing(tool);
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  options.signal?.addEventListener("abort", stop, { once: true });
  if (options.signal?.aborted === true) stop();
  const loop = watch({ ...monitor, argv: [path, ...rest] }, options, controller.signal);
  return {
    async [Symbol.asyncDispose]() {
      options.signal?.removeEventListener("abort", stop);
      stop();
      await loop;
    },
  };
}

async function watch(monitor: Monitor, options: WatchOptions, signal: AbortSignal): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const poke = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined;
      options.onChange();
    }, monitor.burstMs);
  };
  try {
    for (let attempt = 0; !signal.aborted; attempt++) {
      const startedMs = performance.now();
      poke(); // what happened while nobody watched
      await runMonitor(monitor.argv, poke, signal);
      if (signal.aborted) return;
      if (performance.now() - startedMs > STEADY_MS) attempt = 0;
      options.log.warn({ attempt, of: monitor.of }, "a monitor of this machine ended and is started again");
      await sleep(backoffMs(attempt, RESTART), signal);
    }
  } catch (thrown) {
    if (!signal.aborted) {
      options.log.error({ error: errorText(thrown), of: monitor.of }, "a part of this machine is no longer watched");
    }
  } finally {
    clearTimeout(timer);
  }
}

/** The program and its arguments, ended by the kernel with this process where util-linux is there to ask for it. */
function tiedToUs(argv: readonly string[]): string[] {
  const setpriv = findTool("setpriv");
  // busybox has a setpriv too, which does not know the option.
  if (setpriv === null || basename(realpathSync(setpriv)) !== "setpriv") return [...argv];
  const tie = [setpriv, "--pdeathsig", "KILL", "--"];
  // It sets its capabilities anew whatever it is asked for, and a service of ours may not (SystemCallFilter=~@privileged).
  return Bun.spawnSync([...tie, "true"]).exitCode === 0 ? [...tie, ...argv] : [...argv];
}

/** Resolves when the child is over. Should we be killed, it ends with us, or else at the next change, which it cannot tell anybody. */
async function runMonitor(argv: readonly string[], poke: () => void, signal: AbortSignal): Promise<void> {
  const child = Bun.spawn(tiedToUs(argv), {
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
