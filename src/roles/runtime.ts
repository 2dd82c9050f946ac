// What every running role has around it: one process per role, its log, its control sockets, and an orderly stop.
import { join } from "node:path";
import { repeat, sleep, Stopped } from "../base/async.ts";
import { createLogger, type Logger, type LogLevel, LogRing } from "../base/log.ts";
import { giveBackMemory } from "../net/give-back.ts";
import { type LocalVerbs, serveLocal } from "../net/local-api.ts";
import { higgsGroupId } from "../net/run-dir.ts";
import { acquireInstanceLock } from "../net/single-instance.ts";
import { notifier } from "../net/systemd/notify.ts";

export interface RuntimeOptions {
  readonly role: "server" | "node" | "client";
  readonly runDir: string;
  readonly logLevel: LogLevel;
  /** Takes one line of JSON. */
  readonly write: (line: string) => void;
}

export interface Runtime extends AsyncDisposable {
  readonly log: Logger;
  /** Aborts when the process is asked to end: by a signal, or by the verb `down`. */
  readonly signal: AbortSignal;
  stop(): void;
  /** True when a service manager started this process and waits for its word. */
  readonly isService: boolean;
  /** Tells the service manager, if there is one, that the role is up, and from now on that it lives. */
  ready(): void;
  /** Opens the control sockets; `admin` verbs only for the socket's owner. */
  serve(verbs: { readonly everyday: LocalVerbs; readonly admin: LocalVerbs }): Promise<void>;
}

export const SOCKET = { everyday: "higgs.sock", admin: "admin.sock" } as const;

/** Throws AlreadyRunning `already-running` when a living process has the role's run folder. */
export async function startRuntime(options: RuntimeOptions): Promise<Runtime> {
  const ring = new LogRing();
  const log = createLogger({ level: options.logLevel, write: options.write, ring });
  const controller = new AbortController();
  const stack = new AsyncDisposableStack();
  const notify = await notifier(process.env.NOTIFY_SOCKET);
  const stop = (): void => {
    controller.abort(new Stopped());
    notify?.("STOPPING=1");
  };
  try {
    stack.use(await acquireInstanceLock({ runDir: options.runDir, role: options.role }));
  } catch (thrown) {
    await stack.disposeAsync();
    throw thrown;
  }
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, stop);
    stack.defer(() => void process.off(name, stop));
  }
  // A terminal that goes away must not end a tunnel halfway through its clean-up.
  process.on("SIGHUP", stop);
  stack.defer(() => void process.off("SIGHUP", stop));

  return {
    log,
    signal: controller.signal,
    stop,
    isService: notify !== null,
    ready() {
      notify?.("READY=1");
      const everyMs = watchdogMs(process.env);
      if (notify === null || everyMs === null) return;
      // Until the last of the clean-up: a stop that hangs is to be ended too.
      const timer = setInterval(() => void notify("WATCHDOG=1"), everyMs);
      stack.defer(() => clearInterval(timer));
    },
    async serve(verbs) {
      const everyday: LocalVerbs = {
        ...verbs.everyday,
        logs: (body, signal) => logLines(ring, (body as { follow?: boolean }).follow === true, signal),
      };
      const { runDir } = options;
      const groupId = higgsGroupId();
      // Whoever is answered at the everyday one takes the role for running, and may ask the other one right away.
      stack.use(await serveLocal(verbs.admin, { path: join(runDir, SOCKET.admin), mode: 0o600, groupId: null }));
      stack.use(await serveLocal(everyday, { path: join(runDir, SOCKET.everyday), mode: 0o660, groupId }));
      const settling = settle(controller.signal);
      stack.defer(() => settling);
    },
    async [Symbol.asyncDispose]() {
      stop(); // a role may end by itself, as one whose start failed
      await stack.disposeAsync();
    },
  };
}

/** How often the service manager wants to hear from us, three times within its limit (sd_watchdog_enabled(3)); null for never. */
export function watchdogMs(env: Readonly<Record<string, string | undefined>>): number | null {
  const { WATCHDOG_USEC: limit = "", WATCHDOG_PID: pid } = env;
  if (!/^\d{1,12}$/.test(limit) || Number(limit) === 0) return null;
  if (pid !== undefined && pid !== String(process.pid)) return null;
  return Math.max(1, Number(limit) / 3000);
}

/** By then the first connections are up. */
const SETTLED_MS = 8_000;
const LOOK_MS = 60_000;
/** What works uses some ten of it again. */
const GROWN_BYTES = 16 << 20;

/** Memory that the start, or a busy time, needed is given back. */
async function settle(signal: AbortSignal): Promise<void> {
  await sleep(SETTLED_MS, signal).catch(() => undefined); // the loop ends on abort
  if (signal.aborted) return;
  await giveBackMemory();
  let after = process.memoryUsage.rss();
  const look = async (): Promise<void> => {
    if (process.memoryUsage.rss() < after + GROWN_BYTES) return;
    await giveBackMemory();
    after = process.memoryUsage.rss();
  };
  await repeat(look, { everyMs: LOOK_MS, signal, onError: () => undefined });
}

/** A follower that does not read keeps at most this many lines waiting; older ones are dropped. */
const MOST_WAITING = 1000;

async function* logLines(ring: LogRing, follow: boolean, signal: AbortSignal): AsyncGenerator<string> {
  yield* ring.lines();
  if (!follow) return;
  const waiting: string[] = [];
  let wake: () => void = () => undefined;
  const end = ring.follow((line) => {
    waiting.push(line);
    if (waiting.length > MOST_WAITING) waiting.shift();
    wake();
  });
  signal.addEventListener("abort", () => wake(), { once: true });
  try {
    while (!signal.aborted) {
      const line = waiting.shift();
      if (line !== undefined) yield line;
      else await new Promise<void>((resolve) => void (wake = resolve));
    }
  } finally {
    end();
  }
}
