// Starting the client's process in the background, for `higgs client up`.
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";
import type { Config } from "../roles/config.ts";
import { isRunning, type LocalRole } from "./local.ts";

export class StartError extends HiggsError {
  override readonly name = "StartError";
}

const POLL_MS = 15;

/** The running client, or a new process whose control socket answers. Throws StartError with what the process said. */
export async function ensureBackground(
  config: Config<"client">,
  wait: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<LocalRole> {
  const target: LocalRole = { role: "client", runDir: config.run };
  if (await isRunning(target)) return target;
  mkdirSync(config.state, { recursive: true, mode: 0o700 });
  const logPath = join(config.state, "client.log");
  const log = openSync(logPath, "w", 0o600);
  const child = Bun.spawn([...self(), "client", "run", "--background", ...flagsOf(config)], {
    stdin: "ignore",
    stdout: log,
    stderr: log,
    cwd: "/",
    env: environment(),
    detached: true, // its own session: the terminal's end is not its end
  });
  closeSync(log);
  child.unref();
  const deadline = performance.now() + wait.timeoutMs;
  while (!(await isRunning(target))) {
    if (child.exitCode !== null) throw startFailed(readFileSync(logPath, "utf8"), child.exitCode);
    if (performance.now() > deadline) {
      throw new StartError("Cannot connect: the client's process did not start in time.", {
        code: "timeout",
        remedy: `Look at ${logPath}`,
      });
    }
    await sleep(POLL_MS, wait.signal);
  }
  return target;
}

/** How this very program is started: the executable, or the runtime and the source. */
export function self(): string[] {
  const entry = Bun.main;
  return entry.startsWith("/$bunfs/") || entry.startsWith("B:\\") ? [process.execPath] : [process.execPath, entry];
}

function flagsOf(config: Config<"client">): string[] {
  const flags = ["--state", config.state, "--run", config.run, "--log-level", config.logLevel, "--log-format", "json"];
  flags.push("--wireguard", config.wireguard, "--libexec", config.libexec, "--paths", config.paths.join(","));
  if (config.port !== null) flags.push("--port", String(config.port));
  return flags;
}

/** Nothing of the caller's environment but where tools are: it may hold secrets, and the process lives long. */
function environment(): Record<string, string> {
  return process.env.PATH === undefined ? {} : { PATH: process.env.PATH };
}

/** The process has printed the error and its remedy as any command does; they are shown again here. */
function startFailed(output: string, exitCode: number): StartError {
  const lines = output.split("\n");
  const error = lines.find((line) => line.startsWith("error: "))?.slice("error: ".length);
  const remedy = lines.find((line) => line.startsWith("  → "))?.slice("  → ".length);
  return new StartError(error ?? `Cannot connect: the client's process ended with exit code ${exitCode}.`, {
    code: CODES[exitCode] ?? "failed",
    ...(remedy === undefined ? {} : { remedy }),
  });
}

/** So that `up` ends with the code that the process ended with. */
const CODES: Readonly<Record<number, string>> = {
  2: "usage",
  4: "not-enrolled",
  5: "not-connected",
  7: "policy-refused",
  8: "timeout",
  9: "privilege-missing",
};
