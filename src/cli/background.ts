// Starting the client's process in the background, for `higgs client up`.
import { closeSync, constants, fchmodSync, fstatSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { sleep } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";
import { UNTESTED_FLAG } from "../net/platform.ts";
import { ensurePrivateDir } from "../net/secret-file.ts";
import type { Config, Resolved } from "../roles/config.ts";
import type { ProxySetting } from "../roles/proxy-setting.ts";
import { ask, isRunning, type LocalRole } from "./local.ts";

export class StartError extends HiggsError {
  override readonly name = "StartError";
}

const POLL_MS = 15;
/** Months of a quiet client, and an hour of one that is asked for every detail. */
const LOG_LIMIT_BYTES = 10 * 1024 * 1024;

/**
 * The running client, or a new process whose control socket answers.
 * Throws StartError with what the process said, or `already-running` for one that runs with other settings.
 */
export async function ensureBackground(
  { config, sources }: Resolved<"client">,
  wait: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<LocalRole> {
  const target: LocalRole = { role: "client", runDir: config.run };
  if (await isRunning(target)) {
    const running = await settingsOf(target, wait.signal);
    if (running !== null) requireSame({ config, sources }, running);
    // What other programs' variables say is for a client that starts.
    if (config.proxy?.isNamed === true) await tellProxy(target, config.proxy, wait.signal);
    return target;
  }
  await ensurePrivateDir(config.state);
  const logPath = join(config.state, "client.log");
  const log = openLog(logPath);
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
  if (config.proxy !== null) await tellProxy(target, config.proxy, wait.signal);
  return target;
}

/** By its socket, since a process' arguments and environment are no place for a password. */
async function tellProxy(target: LocalRole, proxy: ProxySetting, signal: AbortSignal): Promise<void> {
  await ask(target, "proxy", { body: proxy, socket: "admin", signal });
}

/** What a process keeps for as long as it runs. */
const fixedSettings = z.object({
  port: z.number().nullable(),
  paths: z.array(z.string()),
  wireguard: z.string(),
  portGuessing: z.boolean().optional(),
  portMapping: z.boolean().optional(),
  firewall: z.boolean().optional(),
});

/** Null for a process of a version that does not tell. */
async function settingsOf(target: LocalRole, signal: AbortSignal): Promise<z.infer<typeof fixedSettings> | null> {
  try {
    return fixedSettings.parse(await ask(target, "settings", { signal }));
  } catch (thrown) {
    if (thrown instanceof HiggsError && thrown.code === "unknown-verb") return null;
    throw thrown;
  }
}

/** What somebody asked for in so many words must not be passed over; what nobody said is as it is. Throws StartError. */
export function requireSame(wanted: Resolved<"client">, running: z.infer<typeof fixedSettings>): void {
  for (const key of ["port", "paths", "wireguard"] as const) {
    if (wanted.sources[key] === "default" || String(wanted.config[key]) === String(running[key])) continue;
    const now = running[key] === null ? "one of its own" : `"${String(running[key])}"`;
    throw otherSettings(`use --${key} "${String(wanted.config[key])}"`, `has ${now}`);
  }
  for (const [key, what, yes, no] of TOGGLES) {
    const isWanted = wanted.config[key];
    if (wanted.sources[key] === "default" || isWanted === (running[key] ?? isWanted)) continue;
    throw otherSettings(`change whether ${what}`, isWanted ? no : yes);
  }
}

const TOGGLES = [
  ["portGuessing", "ports are guessed", "guesses ports", "guesses none"],
  ["portMapping", "the router is asked for a port", "asks for one", "asks for none"],
  ["firewall", "there is a firewall", "has one", "does without"],
] as const;

function otherSettings(what: string, does: string): StartError {
  return new StartError(`Cannot ${what}: the running client ${does}.`, {
    code: "already-running",
    remedy: "higgs client down",
  });
}

/** Empty, and for its owner alone. The folder may be a lesser user's: what bears the name must be a plain file. */
export function openLog(path: string): number {
  const { O_RDWR, O_CREAT, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
  let log: number;
  try {
    log = openSync(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK, 0o600);
  } catch (cause) {
    throw badLog(path, cause);
  }
  const facts = fstatSync(log);
  if (!facts.isFile() || facts.nlink !== 1) {
    closeSync(log);
    throw badLog(path);
  }
  fchmodSync(log, 0o600);
  ftruncateSync(log, 0);
  return log;
}

function badLog(path: string, cause?: unknown): StartError {
  return new StartError(`Cannot write the log "${path}": it cannot be opened, or is no plain file of its own.`, {
    code: "file-not-plain",
    remedy: `ls -l ${path}; rm ${path}`,
    cause,
  });
}

/** A log into the file that `fd` appends to, which begins anew when it is full. What is no file grows as it likes. */
export function boundedLog(write: (line: string) => void, fd: number, limitBytes = LOG_LIMIT_BYTES) {
  return (line: string): void => {
    const facts = fstatSync(fd);
    if (facts.isFile() && facts.size + line.length > limitBytes) ftruncateSync(fd, 0);
    write(line);
  };
}

/** How this very program is started: the executable, or the runtime and the source. */
export function self(): string[] {
  const entry = Bun.main;
  return entry.startsWith("/$bunfs/") || entry.startsWith("B:\\") ? [process.execPath] : [process.execPath, entry];
}

function flagsOf(config: Config<"client">): string[] {
  const flags = ["--state", config.state, "--run", config.run, "--log-level", config.logLevel, "--log-format", "json"];
  flags.push("--wireguard", config.wireguard, "--libexec", config.libexec, "--paths", config.paths.join(","));
  if (!config.portGuessing) flags.push("--no-port-guessing");
  if (config.port !== null) flags.push("--port", String(config.port));
  if (!config.portMapping) flags.push("--no-port-mapping");
  if (!config.firewall) flags.push("--no-firewall");
  if (config.untestedPlatform) flags.push(UNTESTED_FLAG);
  if (config.lockdown === true) flags.push("--lockdown");
  if (config.lan === true) flags.push("--lan");
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
  10: "blocked",
};
