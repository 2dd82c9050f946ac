// Children of the lab's own process: run to the end, or watched line by line, always with a fixed environment.
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { LabCommandFailed, LabTimeout } from "./errors.ts";

export interface ExecOptions {
  readonly stdin?: string | Uint8Array;
  /** On top of the lab's fixed environment; nothing of the caller's own is inherited. */
  readonly env?: Readonly<Record<string, string>>;
  /** Default 60 000; the child is killed and LabTimeout thrown. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface ExecResult {
  /** The exit code; 128 + n after signal n, as shells say it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Hosts keep the machine's own /usr/local/bin under /run/lab/bin, as theirs is their own. */
export const LAB_ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/lab/bin",
  HOME: "/root",
  LANG: "C.UTF-8",
  TERM: "dumb",
};

const EXEC_TIMEOUT_MS = 60_000;
// A daemon that the command leaves behind may hold its output open for ever; what it says after the command's end is not ours.
const OUTPUT_GRACE_MS = 250;

/** Runs to the end. Throws LabTimeout, or `signal.reason`; an exit code other than 0 is a result, not an error. */
export async function runChild(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
  options.signal?.throwIfAborted();
  const child = Bun.spawn([...argv], {
    stdin:
      options.stdin === undefined
        ? "ignore"
        : typeof options.stdin === "string"
          ? Buffer.from(options.stdin)
          : options.stdin,
    stdout: "pipe",
    stderr: "pipe",
    cwd: "/",
    env: { ...LAB_ENVIRONMENT, ...options.env },
    detached: true,
  });
  const timeoutMs = options.timeoutMs ?? EXEC_TIMEOUT_MS;
  let timedOut = false;
  const kill = (): void => child.kill("SIGKILL");
  const timer = setTimeout(() => {
    timedOut = true;
    kill();
  }, timeoutMs);
  options.signal?.addEventListener("abort", kill, { once: true });
  const stdout = collectText(child.stdout);
  const stderr = collectText(child.stderr);
  try {
    await child.exited;
    await withinGrace([stdout.ended, stderr.ended]);
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", kill);
    stdout.cancel();
    stderr.cancel();
  }
  options.signal?.throwIfAborted();
  if (timedOut) {
    throw new LabTimeout(`Cannot finish "${argv.join(" ")}": it still ran after ${timeoutMs / 1000} s.`, {
      code: "lab-timeout",
      detail: { stdout: stdout.text(), stderr: stderr.text() },
    });
  }
  return { code: exitCode(child), stdout: stdout.text(), stderr: stderr.text() };
}

/** As `runChild`, and throws LabCommandFailed unless the exit code is 0. */
export async function runChildOrThrow(argv: readonly string[], options: ExecOptions = {}): Promise<string> {
  const result = await runChild(argv, options);
  if (result.code === 0) return result.stdout;
  const said = (result.stderr.trim() || result.stdout.trim()).slice(0, 2000);
  throw new LabCommandFailed(`Cannot run "${argv.join(" ")}": it ended with ${result.code}: ${said}`, {
    code: "lab-command-failed",
    detail: { argv, code: result.code, stdin: typeof options.stdin === "string" ? options.stdin : undefined },
  });
}

export function exitCode(child: {
  readonly exitCode: number | null;
  readonly signalCode: string | number | null;
}): number {
  if (child.exitCode !== null) return child.exitCode;
  if (typeof child.signalCode === "number") return 128 + child.signalCode;
  const signals: Readonly<Record<string, number>> = constants.signals;
  return 128 + (signals[child.signalCode ?? ""] ?? 0);
}

/** The direct children of a process, by the pids of the lab's own namespace. */
export function childrenOf(pid: number): readonly number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return text === "" ? [] : text.split(" ").map(Number);
  } catch {
    return []; // the process is over
  }
}

/** The pid of a process as it sees itself in the innermost namespace; 0 when it is over. */
export function innerPid(pid: number): number {
  try {
    const line = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
    return Number(line.split(/\s+/).at(-1) ?? 0);
  } catch {
    return 0;
  }
}

interface Collected {
  readonly ended: Promise<void>;
  text(): string;
  cancel(): void;
}

function collectText(stream: ReadableStream<Uint8Array>): Collected {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let text = "";
  const read = async (): Promise<void> => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += decoder.decode(value, { stream: true });
    }
    text += decoder.decode();
  };
  return {
    ended: read().catch(() => undefined), // a cancelled read; what came before it counts
    text: () => text,
    cancel: () => void reader.cancel().catch(() => undefined), // already ended
  };
}

async function withinGrace(ends: readonly Promise<void>[]): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const grace = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, OUTPUT_GRACE_MS);
  });
  await Promise.race([Promise.all(ends), grace]);
  clearTimeout(timer);
}
