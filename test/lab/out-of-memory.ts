// Has the kernel kill a lab host's process for want of memory: in a memory cgroup where this machine has one, else by what it may map.
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import { innerPid, runChild } from "../../src/lab/spawn.ts";
import { until } from "./harness.ts";

/** Less than any process needs for its next step. */
const LIMIT_BYTES = 64 << 10;

/** The two layouts of cgroups: where a new group goes, what limits it, and where its kills are counted. */
const LAYOUTS = [
  { root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes", kills: "memory.oom_control" },
  { root: "/sys/fs/cgroup", limit: "memory.max", kills: "memory.events" },
] as const;

let groups = 0;

/**
 * `poke` makes the process do something, as it takes memory only then. Resolves when it is gone, with who killed it: the kernel's
 * OOM killer, or the process itself, when it was refused more address space (RLIMIT_AS).
 */
export async function runOutOfMemory(
  host: LabHost,
  inner: number,
  poke: () => Promise<unknown>,
): Promise<"OOM killer" | "refused memory"> {
  const pid = outerPid(host, inner);
  const isGone = async (): Promise<boolean> => {
    await poke();
    return !existsSync(`/proc/${pid}`) || /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  };
  const group = limitedGroup();
  if (group === null) {
    await runChild(["prlimit", "--pid", String(pid), `--as=${LIMIT_BYTES}`]);
    await until(isGone, { timeoutMs: 20_000, what: "the end of a process that gets no memory" });
    return "refused memory";
  }
  writeFileSync(join(group.dir, "cgroup.procs"), String(pid));
  await until(isGone, { timeoutMs: 20_000, what: "the OOM killer" });
  const kills = Number(/^oom_kill (\d+)$/m.exec(readFileSync(join(group.dir, group.kills), "utf8"))?.[1] ?? 0);
  await until(() => removed(group.dir), { what: "the end of the memory cgroup" });
  return kills > 0 ? "OOM killer" : "refused memory";
}

function limitedGroup(): { readonly dir: string; readonly kills: string } | null {
  for (const { root, limit, kills } of LAYOUTS) {
    const dir = join(root, `higgs-lab-memory-${process.pid}-${++groups}`);
    try {
      mkdirSync(dir);
      writeFileSync(join(dir, limit), String(LIMIT_BYTES));
      return { dir, kills };
    } catch {
      if (existsSync(dir)) removed(dir); // a group without the controller, or no right to make one
    }
  }
  return null;
}

function removed(dir: string): boolean {
  try {
    rmdirSync(dir);
    return true;
  } catch {
    return false; // its last process is not reaped yet
  }
}

/** As this machine sees the process that the host knows by that number. */
function outerPid(host: LabHost, inner: number): number {
  const processes = readlinkSync(`/proc/${host.pid}/ns/pid`);
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name) || innerPid(Number(name)) !== inner) continue;
    try {
      if (readlinkSync(`/proc/${name}/ns/pid`) === processes) return Number(name);
    } catch {
      // over since it was listed
    }
  }
  throw new Error(`"${host.name}" has no process ${inner}.`);
}
