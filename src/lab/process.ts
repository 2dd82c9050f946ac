// A child that the lab watches while it runs: its lines as they come, its pid in its host, signals to it.
import { LabTimeout } from "./errors.ts";
import { childrenOf, exitCode, innerPid, LAB_ENVIRONMENT } from "./spawn.ts";

export type OutputStream = "stdout" | "stderr";

export interface SpawnOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly onLine?: (line: string, stream: OutputStream) => void;
}

export interface LabProcess extends AsyncDisposable {
  /** As the host sees it; 0 when it was over before it could be looked at. */
  readonly pid: number;
  /** The exit code; 128 + n after signal n. Resolves after the last line. */
  readonly exited: Promise<number>;
  /** Of both streams in the order of their coming, the last 10 000. */
  readonly lines: readonly string[];
  /** To the program itself. Default SIGTERM; harmless when it is over. */
  kill(signal?: NodeJS.Signals): void;
  /** The first line that matches, past or future. Throws LabTimeout when none came, also at once when the process is over. */
  waitForLine(
    pattern: RegExp,
    options?: { readonly timeoutMs?: number; readonly signal?: AbortSignal },
  ): Promise<string>;
}

const LINES_LIMIT = 10_000;
/** Of a program that may start on a busy machine. */
const WAIT_FOR_LINE_MS = 30_000;
const LOOK_FOR_CHILD_MS = 2;

/** `argv` is an `nsenter` whose only child is the program; that child dies with it. */
export async function spawnEntered(argv: readonly string[], options: SpawnOptions = {}): Promise<LabProcess> {
  const child = Bun.spawn([...argv], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    cwd: "/",
    env: { ...LAB_ENVIRONMENT, ...options.env },
    detached: true,
  });
  const lines: string[] = [];
  const watchers = new Set<() => void>();
  const take = (stream: OutputStream) => (line: string) => {
    lines.push(line);
    if (lines.length > LINES_LIMIT) lines.shift();
    options.onLine?.(line, stream);
    for (const watcher of watchers) watcher();
  };
  const read = Promise.all([eachLine(child.stdout, take("stdout")), eachLine(child.stderr, take("stderr"))]);
  let over = false;
  const exited = (async (): Promise<number> => {
    await child.exited;
    // A daemon that it left behind may hold the pipes; its lines still come, but nobody waits for them.
    await Promise.race([read, Bun.sleep(200)]);
    over = true;
    for (const watcher of watchers) watcher();
    return exitCode(child);
  })();
  let outer = 0;
  while (outer === 0 && child.exitCode === null && child.signalCode === null) {
    outer = childrenOf(child.pid)[0] ?? 0;
    if (outer === 0) await Bun.sleep(LOOK_FOR_CHILD_MS);
  }
  const kill = (signal: NodeJS.Signals = "SIGTERM"): void => {
    try {
      if (outer !== 0 && !over) process.kill(outer, signal);
      // An nsenter whose program is stopped stops itself, and would never tell of its end.
      if (signal === "SIGCONT" && !over) child.kill(signal);
    } catch {
      // over since the check: what was wanted
    }
  };
  return {
    pid: outer === 0 ? 0 : innerPid(outer),
    exited,
    lines,
    kill,
    waitForLine(pattern, wait = {}) {
      return new Promise((resolve, reject) => {
        const finish = (act: () => void): void => {
          watchers.delete(look);
          clearTimeout(timer);
          wait.signal?.removeEventListener("abort", onAbort);
          act();
        };
        const onAbort = (): void => finish(() => reject(wait.signal?.reason as Error));
        const miss = (why: string): void =>
          finish(() => {
            const text = `Cannot see a line like ${pattern} of "${argv.at(-1) ?? ""}": ${why}. Its last lines: ${lines.slice(-10).join(" | ")}`;
            reject(new LabTimeout(text, { code: "lab-no-line", detail: { lines: lines.slice(-100) } }));
          });
        const look = (): void => {
          const found = lines.find((line) => pattern.test(line));
          if (found !== undefined) finish(() => resolve(found));
          else if (over) miss("it is over");
        };
        const timer = setTimeout(() => miss("none came"), wait.timeoutMs ?? WAIT_FOR_LINE_MS);
        wait.signal?.addEventListener("abort", onAbort, { once: true });
        watchers.add(look);
        if (wait.signal?.aborted === true) onAbort();
        else look();
      });
    },
    async [Symbol.asyncDispose]() {
      kill("SIGKILL");
      if (!over) child.kill("SIGKILL");
      await exited;
    },
  };
}

async function eachLine(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    for (const line of parts) take(line);
  }
  rest += decoder.decode();
  if (rest !== "") take(rest);
}
