// What the kernel tells of a process: the processor time that it used, the memory that it has, and in which lab host it is.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { availableParallelism } from "node:os";

/** USER_HZ: what proc(5) counts processor time in, 100 a second on every Linux that Bun runs on. */
const TICKS_PER_SECOND = 100;

/** Seconds in user and kernel mode, with those of children that ended. 0 when it is over. */
export function cpuSeconds(pid: number): number {
  const fields = statFields(pid);
  // proc(5): utime is field 14, stime 15, cutime 16, cstime 17, counted from 1; the first two are not among ours.
  const ticks = [11, 12, 13, 14].map((index) => Number(fields[index] ?? 0));
  return ticks.reduce((sum, value) => sum + value, 0) / TICKS_PER_SECOND;
}

/** What follows the name, which may have blanks in it. */
function statFields(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");
  } catch {
    return [];
  }
}

export interface Memory {
  /** Everything resident, with the pages of the executable's file that all its processes share. */
  readonly rssMiB: number;
  /** Of these, what belongs to no file: what a second process of the same kind costs. */
  readonly anonymousMiB: number;
}

export function memory(pid: number): Memory {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  const mib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) / 1024;
  return { rssMiB: mib("VmRSS"), anonymousMiB: mib("RssAnon") };
}

/** The processes of a lab host whose command line matches, by the pids of this namespace. `hostPid` is the host's first process. */
export function processesIn(hostPid: number, pattern: RegExp): number[] {
  const namespace = pidNamespace(hostPid);
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pidNamespace(pid) === namespace && pattern.test(commandLine(pid)));
}

function pidNamespace(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    return `none ${pid}`; // it is over
  }
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

/** Processor seconds that each of some processes uses while `work` runs. */
export async function cpuDuring<T>(
  pids: Readonly<Record<string, number>>,
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly cpu: Record<string, number> }> {
  const before = Object.entries(pids).map(([name, pid]) => [name, cpuSeconds(pid)] as const);
  const result = await work();
  const cpu = Object.fromEntries(before.map(([name, seconds]) => [name, cpuSeconds(pids[name] ?? 0) - seconds]));
  return { result, cpu };
}

export function machineText(): string {
  const model = /^model name\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "unknown processor";
  return `${availableParallelism()} cores, ${model}`;
}
