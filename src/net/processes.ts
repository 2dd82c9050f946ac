// The processes of higgs in this machine's network, found without asking any of them.
import { readdir, readFile, readlink } from "node:fs/promises";
import { basename } from "node:path";
import { sleep } from "../base/async.ts";
import { isAlive, type ProcessIdentity, processOf } from "./process-identity.ts";
import { macProcesses } from "./process-macos.ts";
import { windowsProcesses } from "./windows-process.ts";

export interface FoundProcess {
  readonly identity: ProcessIdentity;
  readonly argv: readonly string[];
}

/**
 * Running roles: `higgs server|node|client …`, by whatever path. Only those in our own network namespace: others, as a container's,
 * have another machine's network to themselves.
 */
export async function rolesRunning(): Promise<readonly FoundProcess[]> {
  if (process.platform === "darwin") return rolesAmong(macProcesses());
  if (process.platform === "win32") return rolesAmong(await windowsProcesses());
  const own = await readlink("/proc/self/ns/net");
  const found: FoundProcess[] = [];
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const argv = await argvOf(pid);
    if (!isRole(argv)) continue;
    if ((await readlink(`/proc/${pid}/ns/net`).catch(() => "")) !== own) continue;
    const identity = processOf(pid);
    if (identity !== null && isAlive(identity)) found.push({ identity, argv });
  }
  return found;
}

/** What a process that got SIGKILL takes at most, unless the kernel itself hangs. */
const DEATH_MS = 3_000;
const POLL_MS = 10;

/** SIGKILL. Resolves with true when it is gone, with false when it does not die. */
export async function killProcess(identity: ProcessIdentity, signal: AbortSignal): Promise<boolean> {
  if (!isAlive(identity)) return true; // its pid may be another's by now
  try {
    process.kill(identity.pid, "SIGKILL");
  } catch {
    // over since the look, or not ours to end; whoever waits for its end sees
  }
  const deadline = performance.now() + DEATH_MS;
  while (isAlive(identity) && performance.now() < deadline) await sleep(POLL_MS, signal);
  return !isAlive(identity);
}

function rolesAmong(all: readonly { readonly pid: number; readonly argv: readonly string[] }[]): FoundProcess[] {
  return all.flatMap(({ pid, argv }) => {
    const identity = pid === process.pid || !isRole(argv) ? null : processOf(pid);
    return identity === null || !isAlive(identity) ? [] : [{ identity, argv }];
  });
}

/** Empty for a process that is over, or hidden from this user. */
async function argvOf(pid: number): Promise<readonly string[]> {
  const text = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return text.split("\0").slice(0, -1);
}

const ROLES: ReadonlySet<string> = new Set(["server", "node", "client"]);

/** The executable, or the runtime with the program's source. */
export function isRole(argv: readonly string[]): boolean {
  const at = argv.findIndex((word, i) => i < 3 && /^higgs(-|\.exe$|$)/i.test(basename(word.replaceAll("\\", "/"))));
  const role = argv[at + 1] ?? "";
  if (at < 0 || !ROLES.has(role)) return false;
  const verb = argv[at + 2];
  return verb === undefined || verb === "run" || verb.startsWith("-");
}

/** The value of a flag: `--state DIR` or `--state=DIR`; null without it. */
export function flagIn(argv: readonly string[], flag: string): string | null {
  const joined = argv.find((word) => word.startsWith(`${flag}=`));
  if (joined !== undefined) return joined.slice(flag.length + 1);
  const at = argv.indexOf(flag);
  return at < 0 ? null : (argv[at + 1] ?? null);
}
