// Which process is meant: its pid with its start time and the machine's boot, so that a pid used again is not mistaken.
import { readFileSync } from "node:fs";
import { macBootId, macProcess } from "./process-macos.ts";
import { windowsProcess } from "./windows-process.ts";

const IS_WINDOWS = process.platform === "win32";
/** Where nothing tells one boot from another: what a boot would have taken is looked at again. */
const NO_BOOT = "00000000-0000-0000-0000-000000000000";

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks since boot, field 22 of /proc/PID/stat (proc_pid_stat(5)); on macOS Unix seconds, as `ps` has no more. */
  readonly startTime: string;
  readonly bootId: string;
}

export function thisProcess(): ProcessIdentity {
  if (IS_WINDOWS) return windowsProcess(process.pid) ?? { pid: process.pid, startTime: "0", bootId: NO_BOOT };
  return { pid: process.pid, startTime: startTimeOf(process.pid) ?? "0", bootId: bootId() };
}

/** Another process of this machine; null when there is none, or it is hidden from this user. */
export function processOf(pid: number): ProcessIdentity | null {
  if (IS_WINDOWS) return windowsProcess(pid);
  const startTime = startTimeOf(pid);
  return startTime === null ? null : { pid, startTime, bootId: bootId() };
}

export function bootId(): string {
  if (process.platform === "darwin") return macBootId();
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

/** True for a process that this user may not look at, too: a lock must not be taken from it. */
export function isAlive(identity: ProcessIdentity): boolean {
  // A boot's time moves with the clock on Windows; when a process began does not.
  if (!IS_WINDOWS && identity.bootId !== bootId()) return false;
  try {
    process.kill(identity.pid, 0);
  } catch (thrown) {
    if (thrown instanceof Error && "code" in thrown && thrown.code === "ESRCH") return false;
    // EPERM: it is there and belongs to another user, whose /proc may be hidden (ProtectProc=invisible).
  }
  if (IS_WINDOWS) return (windowsProcess(identity.pid)?.startTime ?? identity.startTime) === identity.startTime;
  const stat = readStat(identity.pid);
  if (stat === null) return true;
  return stat.startTime === identity.startTime && stat.state !== "Z" && stat.state !== "X";
}

function startTimeOf(pid: number): string | null {
  return readStat(pid)?.startTime ?? null;
}

function readStat(pid: number): ProcessStat | null {
  if (process.platform === "darwin") return macProcess(pid);
  try {
    return parseStat(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return null; // over, or hidden from this user
  }
}

export interface ProcessStat {
  /** One letter: R, S, D, T, Z (dead and not yet reaped) … */
  readonly state: string;
  readonly startTime: string;
}

/** The second field is the program's name in parentheses, and may hold spaces and parentheses itself. */
export function parseStat(text: string): ProcessStat | null {
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const state = fields[0];
  const startTime = fields[19]; // field 22 of the line; the first here is field 3
  return state === undefined || startTime === undefined || !/^\d+$/.test(startTime) ? null : { state, startTime };
}
