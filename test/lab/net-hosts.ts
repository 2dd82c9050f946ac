// What the tests of the operating system's parts share: the tools of a lab host as Exec and Sysctl, and probes between hosts.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type IpAddress, parseCidr, parseIp, type Cidr } from "../../src/base/ip.ts";
import type { LabHost } from "../../src/lab/host.ts";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import type { Topology } from "../../src/lab/topology.ts";
import type { Exec } from "../../src/net/exec.ts";
import type { Pulse } from "../../src/net/firewall/lease-pulse.ts";
import type { Journal, UndoEntry } from "../../src/net/journal.ts";
import { type Sysctl, SysctlRefused } from "../../src/net/sysctl.ts";
import { bundleForHosts } from "./bundle.ts";
import { requireLab } from "./harness.ts";

export interface Probe {
  readonly protocol: "tcp" | "udp";
  readonly to: string;
  readonly port: number;
  /** Source address and port, where the kernel shall not choose. */
  readonly from?: string;
  readonly fromPort?: number;
  /** After this long without an answer it is "silence". */
  readonly waitMs: number;
}

const PROBE = ["/usr/local/bin/bun", "/usr/local/bin/net-probe.js"] as const;
/** Longer than any answer takes in the lab, also on a busy machine; the probes of a call wait side by side. */
const WAIT_MS = 2500;

export function tcp(to: string, port: number, more: Partial<Probe> = {}): Probe {
  return { protocol: "tcp", to, port, waitMs: WAIT_MS, ...more };
}

export function udp(to: string, port: number, more: Partial<Probe> = {}): Probe {
  return { protocol: "udp", to, port, waitMs: WAIT_MS, ...more };
}

/** A lab whose hosts can run probes. */
export async function startProbeLab(topology: Topology): Promise<Lab> {
  await requireLab();
  const dir = mkdtempSync(join(tmpdir(), "higgs-net-probe-"));
  try {
    const path = join(dir, "net-probe.js");
    const program = JSON.stringify(join(import.meta.dir, "net-probe.program.ts"));
    await Bun.write(path, await bundleForHosts("net-probe-entry.ts", `await import(${program});\n`));
    return await startLab(topology, { programs: { bun: process.execPath, "net-probe.js": path } });
  } finally {
    rmSync(dir, { recursive: true }); // the hosts have it on their disks
  }
}

/** Answers on these ports until the host goes. */
export async function serve(host: LabHost, ports: readonly number[]): Promise<void> {
  const child = await host.spawn([...PROBE, "serve", ports.join(",")]);
  await child.waitForLine(/^serving/);
}

/** All at once; the answers are in the order of the probes. */
export async function ask(host: LabHost, probes: readonly Probe[], user?: number): Promise<readonly string[]> {
  const as = user === undefined ? [] : ["setpriv", `--reuid=${user}`, `--regid=${user}`, "--clear-groups"];
  return JSON.parse(await host.execOrThrow([...as, ...PROBE, "ask", JSON.stringify(probes)])) as string[];
}

/** Resolves when it runs. `stop` gives how many datagrams got no answer, of how many. */
export async function stream(
  host: LabHost,
  probe: Probe,
): Promise<{ stop(): Promise<{ sent: number; lost: number }> }> {
  const child: LabProcess = await host.spawn([...PROBE, "stream", JSON.stringify(probe)]);
  await child.waitForLine(/^streaming/);
  return {
    async stop() {
      child.kill("SIGTERM");
      const [, sent, back] = (await child.waitForLine(/^stream \d+ \d+/)).split(" ").map(Number);
      return { sent: sent ?? 0, lost: (sent ?? 0) - (back ?? 0) };
    },
  };
}

/** From a process of the host, as its node would. */
export function pulseOn(host: LabHost): Pulse {
  return async (target) =>
    (await host.execOrThrow([...PROBE, "pulse", JSON.stringify(target)])).trim() as Awaited<ReturnType<Pulse>>;
}

/** The tools of the host, as if this process ran there. */
export function execOn(host: LabHost): Exec {
  return {
    run: (argv, options = {}) =>
      host.exec(argv, {
        ...(options.stdin === undefined ? {} : { stdin: options.stdin }),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
        timeoutMs: options.timeoutMs ?? 10_000,
      }),
  };
}

/** The kernel's settings in the host's namespace, which only a process in it can see. */
export function sysctlOn(host: LabHost, journal: Journal): Sysctl {
  const fileOf = (key: string): string =>
    `/proc/sys/${key.replace(/^net\.ipv6\.conf\.(.+)\.accept_ra$/, "net/ipv6/conf/$1/accept_ra").replace(/^net\.(?!.*\/)[^/]*$/, (plain) => plain.replaceAll(".", "/"))}`;
  const read = async (key: string): Promise<string | null> => {
    const { code, stdout } = await host.exec(["cat", fileOf(key)]);
    return code === 0 ? stdout.trim() : null;
  };
  const write = async (key: string, value: string): Promise<void> => {
    const { code } = await host.exec(["dd", "status=none", `of=${fileOf(key)}`], { stdin: value });
    if (code !== 0) throw new SysctlRefused(`Cannot write "${key}".`, { code: "sysctl-refused" });
  };
  return {
    read,
    async set(key, value) {
      const before = await read(key);
      if (before === value || before === null) return;
      await journal.add({ kind: "sysctl", key, before, ours: value });
      await write(key, value);
    },
    verify: () => Promise.resolve([]),
    async restore() {
      const entries = journal.entries().filter((entry) => entry.kind === "sysctl");
      for (const entry of entries.toReversed()) {
        await write(entry.key, entry.before);
        await journal.remove(entry);
      }
      return entries.map((entry) => entry.key);
    },
  };
}

/** In memory: what a restart makes of a journal is another test's subject. */
export function journalInMemory(): Journal {
  let all: readonly UndoEntry[] = [];
  const keyOf = (entry: UndoEntry): string => (entry.kind === "sysctl" ? entry.key : entry.kind);
  return {
    entries: () => all,
    async add(entry) {
      if (!all.some((one) => keyOf(one) === keyOf(entry))) all = [...all, entry];
    },
    async remove(entry) {
      all = all.filter((one) => keyOf(one) !== keyOf(entry));
    },
  };
}

export function ip(text: string): IpAddress {
  const parsed = parseIp(text);
  if (parsed === null) throw new Error(`"${text}" is no address.`);
  return parsed;
}

export function cidr(text: string): Cidr {
  const parsed = parseCidr(text);
  if (parsed === null) throw new Error(`"${text}" is no prefix.`);
  return parsed;
}
