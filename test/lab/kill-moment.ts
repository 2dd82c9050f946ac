// Runs in a lab's host: starts a role, kills it, its wireguard-go or both at a chosen moment of the way up or down, and sees what the living make of it.
import { readdirSync, readFileSync, rmSync } from "node:fs";

export const VICTIMS = ["role", "wireguard-go", "both"] as const;
export type Victim = (typeof VICTIMS)[number];

export interface KillPlan {
  readonly command: readonly string[];
  readonly victim: Victim;
  readonly interface: string;
  /** When to kill -9: so long after the start, or at the moment when the journal has (again) so many entries. */
  readonly at:
    | { readonly kind: "delay"; readonly ms: number }
    | { readonly kind: "entries"; readonly count: number }
    /** SIGTERM once it has `full` entries, then the kill when there are only so many, or so long after. */
    | { readonly kind: "entries-left"; readonly full: number; readonly count: number }
    | { readonly kind: "delay-down"; readonly full: number; readonly ms: number };
  readonly journalPath: string;
  /** How a role whose wireguard-go was killed on the way up is seen to work again: this program says something like it. */
  readonly works: { readonly argv: readonly [string, ...string[]]; readonly pattern: string };
}

/** What a role made of the loss of its wireguard-go alone. */
export type Aftermath =
  /** It works again, and then ended on SIGTERM. */
  | { readonly kind: "recovered"; readonly code: number | null; readonly ms: number }
  /** It ended by itself, or was ending. */
  | { readonly kind: "ended"; readonly code: number | null; readonly ms: number }
  | { readonly kind: "neither" };

export interface Killed {
  /** False when the victim was over, or not there, when the moment came. */
  readonly killed: boolean;
  /** Kinds, as the journal had them just after the kill. */
  readonly entries: readonly string[];
  readonly aftermath: Aftermath | null;
  /** The role's last words where it was not killed itself. */
  readonly said: readonly string[];
}

const MOMENT_MS = 20_000;
const AFTERMATH_MS = 40_000;
const LAST_LINES = 20;

export async function killAtMoment(plan: KillPlan): Promise<Killed> {
  const { at, victim } = plan;
  const said = `/tmp/kill-moment-${process.pid}`;
  using _said = { [Symbol.dispose]: () => rmSync(said, { force: true }) };
  const child = Bun.spawn([...plan.command], { stdin: "ignore", stdout: "ignore", stderr: Bun.file(said) });
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null;
  const entries = (): number => journaled(plan.journalPath).length;
  const reach = async (met: () => boolean): Promise<boolean> => {
    const end = performance.now() + MOMENT_MS;
    // Gives way to others and to the news of the child's end, but sleeps for nothing.
    while (!met() && !isOver() && performance.now() < end) await new Promise((resolve) => setImmediate(resolve));
    return !isOver() && performance.now() < end;
  };
  /** The role takes no step more while its wireguard-go is looked for. */
  const hold = (): void => {
    if (victim !== "role") child.kill("SIGSTOP");
  };
  const isThere = (): boolean => wireGuardGo(plan.interface).length > 0;
  const isDown = at.kind === "entries-left" || at.kind === "delay-down";
  if (at.kind === "delay") await Promise.race([Bun.sleep(at.ms), child.exited]);
  if (at.kind === "entries" && (await reach(() => entries() >= at.count))) {
    hold();
    // One that is just being started comes while the role waits for nothing else.
    if (victim === "wireguard-go" && !isThere()) {
      child.kill("SIGCONT");
      await reach(isThere);
      hold();
    }
  }
  if (isDown) {
    await reach(() => entries() >= at.full);
    child.kill("SIGTERM");
    if (at.kind === "entries-left" && (await reach(() => entries() <= at.count))) hold();
    if (at.kind === "delay-down") await Promise.race([Bun.sleep(at.ms), child.exited]);
  }
  const pids = victim === "role" ? [] : wireGuardGo(plan.interface);
  const killed = victim === "wireguard-go" ? pids.length > 0 : !isOver();
  if (victim !== "wireguard-go") child.kill("SIGKILL");
  for (const pid of pids) kill(pid);
  const left = journaled(plan.journalPath);
  if (victim === "wireguard-go") child.kill("SIGCONT");
  if (victim === "wireguard-go" && killed) {
    const aftermath = await aftermathOf(child, plan, isDown);
    child.kill("SIGKILL");
    await child.exited;
    return { killed, entries: left, aftermath, said: readFileSync(said, "utf8").trim().split("\n").slice(-LAST_LINES) };
  }
  child.kill("SIGKILL");
  await child.exited;
  return { killed, entries: journaled(plan.journalPath), aftermath: null, said: [] };
}

async function aftermathOf(child: Bun.Subprocess, plan: KillPlan, isDown: boolean): Promise<Aftermath> {
  const start = performance.now();
  const isLate = (): boolean => performance.now() - start > AFTERMATH_MS;
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null;
  let recoveredMs: number | null = null;
  while (!isDown && recoveredMs === null && !isOver() && !isLate()) {
    if (wireGuardGo(plan.interface).length > 0 && (await works(plan.works))) recoveredMs = performance.now() - start;
    else await Bun.sleep(20);
  }
  if (recoveredMs !== null) child.kill("SIGTERM");
  while (!isOver() && !isLate()) await Bun.sleep(5);
  if (!isOver()) return { kind: "neither" };
  const ms = Math.round(recoveredMs ?? performance.now() - start);
  return { kind: recoveredMs === null ? "ended" : "recovered", code: child.exitCode, ms };
}

async function works({ argv, pattern }: KillPlan["works"]): Promise<boolean> {
  const asked = Bun.spawn([...argv], { stdin: "ignore", stdout: "pipe", stderr: "ignore", timeout: 5_000 });
  return new RegExp(pattern).test(await new Response(asked.stdout).text());
}

function journaled(path: string): readonly string[] {
  try {
    return (JSON.parse(readFileSync(path, "utf8")) as { undo: { kind: string }[] }).undo.map(({ kind }) => kind);
  } catch {
    return []; // there is none
  }
}

/** Also the first process, which ends once the daemon is there. */
function wireGuardGo(interfaceName: string): readonly number[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const [program = "", ...rest] = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0");
      return /\/wireguard-go[^/]*$/.test(program) && rest.includes(interfaceName) ? [Number(name)] : [];
    } catch {
      return []; // over since it was listed
    }
  });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // over since it was seen
  }
}
