// Processes and the boot of a Mac, as `ps` and `sysctl` tell them: read at once, as their callers decide on a lock.
import type { ProcessStat } from "./process-identity.ts";

const TIMEOUT_MS = 5_000;

/** sysctl(8), kern.bootsessionuuid: another one at each boot. */
export function macBootId(): string {
  return said("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").trim().toLowerCase();
}

/** Null when there is none. */
export function macProcess(pid: number): ProcessStat | null {
  // ps(1): -o state= and lstart= without headings, of one process.
  return parsePs(said("/bin/ps", "-o", "state=,lstart=", "-p", String(pid)));
}

/** From "Ss   Sat Nov 21 13:56:39 2026": a state whose first letter counts, and when it started, to the second. */
export function parsePs(text: string): ProcessStat | null {
  const [, state, started = ""] = /^\s*([A-Z])\S*\s+(\S.*\S)\s*$/m.exec(text) ?? [];
  const startedMs = Date.parse(started);
  return state === undefined || Number.isNaN(startedMs) ? null : { state, startTime: String(startedMs / 1000) };
}

/** All of this machine, with their words as `ps` joins them. */
export function macProcesses(): readonly { readonly pid: number; readonly argv: readonly string[] }[] {
  // ps(1): -A all, -ww whole lines.
  return parsePsAll(said("/bin/ps", "-A", "-ww", "-o", "pid=,command="));
}

export function parsePsAll(text: string): readonly { readonly pid: number; readonly argv: readonly string[] }[] {
  return text.split("\n").flatMap((line) => {
    const [, pid, command] = /^\s*(\d+)\s+(\S.*)$/.exec(line) ?? [];
    return pid === undefined || command === undefined ? [] : [{ pid: Number(pid), argv: command.split(" ") }];
  });
}

/** Empty where the program does not answer. */
function said(...argv: string[]): string {
  const { stdout } = Bun.spawnSync(argv, {
    stdin: "ignore",
    stderr: "ignore",
    env: { LC_ALL: "C" },
    timeout: TIMEOUT_MS,
  });
  return stdout.toString();
}
