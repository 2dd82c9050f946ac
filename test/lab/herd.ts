// A host of the lab with many machines in one process: how they come back after the server was away, and how much they hold.
import type { Lab } from "../../src/lab/lab.ts";
import { internetHost } from "../../src/lab/small-internet.ts";
import type { HostSpec } from "../../src/lab/topology.ts";
import { bundleForHosts } from "./bundle.ts";
import { higgsOrThrow, invite } from "./client-lab.ts";
import { until } from "./harness.ts";
import { join } from "node:path";

/** IPv4 alone: each connection then comes from another of its addresses. */
export const HERD_HOST: HostSpec = {
  ...internetHost("herd", 90),
  interfaces: [{ name: "eth0", segment: "internet", ipv4: "203.0.113.90/24" }],
  routes: [{ to: "default4", via: "203.0.113.1" }],
};
/** 203.0.113.101 and on: who enrols from one address alone is let in five times a minute. */
const FIRST_ADDRESS = 101;

export interface Herd {
  readonly count: number;
  /** Which machine was welcomed by a server when, in milliseconds of the herd's own clock, oldest first. */
  readonly welcomes: readonly Welcomed[];
  /** What else the process said: faults. */
  readonly said: readonly string[];
}

export interface Welcomed {
  readonly n: number;
  /** How often by now. */
  readonly times: number;
  readonly atMs: number;
}

/** Resolves when all of them are connected. They live as long as the lab. */
export async function startHerd(lab: Lab, count: number): Promise<Herd> {
  const host = lab.host(HERD_HOST.name);
  const addresses = Array.from({ length: count }, (_, i) => `203.0.113.${FIRST_ADDRESS + i}`);
  for (const address of addresses) await host.execOrThrow(["ip", "addr", "add", `${address}/32`, "dev", "eth0"]);
  const map = addresses.map((address, i) => `${i} : ${address}`).join(", ");
  const rules = `table ip herd {
  chain out {
    type nat hook postrouting priority srcnat
    oifname eth0 tcp dport 443 snat to numgen inc mod ${count} map { ${map} }
  }
}`;
  await host.execOrThrow(["nft", "-f", "-"], { stdin: rules });
  const program = JSON.stringify(join(import.meta.dir, "herd.program.ts"));
  await host.writeFile("/root/herd.js", await bundleForHosts("herd-entry.ts", `await import(${program});\n`));
  const line = await invite(lab, "node", "--uses", String(count));
  const welcomes: Welcomed[] = [];
  const said: string[] = [];
  const running = await host.spawn(["/usr/local/bin/bun", "/root/herd.js", String(count), "/root/herd", line], {
    onLine: (text) => {
      if (text.startsWith('{"n":')) welcomes.push(JSON.parse(text) as Welcomed);
      else if (text !== "enrolled") said.push(text);
    },
  });
  await running.waitForLine(/^enrolled$/, { timeoutMs: 60_000 });
  const herd = { count, welcomes, said };
  await untilWelcomed(herd, 1);
  return herd;
}

/** Resolves when each was welcomed so often, with those last welcomes. */
export async function untilWelcomed(herd: Herd, times: number): Promise<readonly Welcomed[]> {
  const those = (): readonly Welcomed[] => herd.welcomes.filter((one) => one.times === times);
  await until(() => those().length === herd.count, {
    timeoutMs: 60_000,
    what: `welcome number ${times} of ${herd.count} machines`,
  });
  return those();
}

/** Resolves when the server says that all of them are there. */
export async function untilOnline(lab: Lab, herd: Herd): Promise<void> {
  const online = async (): Promise<number> => {
    const said = await higgsOrThrow(lab.host("vps"), "server", "machines", "--json");
    const { machines } = JSON.parse(said) as { machines: { name: string; online: boolean }[] };
    return machines.filter(({ name, online: is }) => is && name.startsWith("herd-")).length;
  };
  await until(async () => (await online()) === herd.count, { timeoutMs: 60_000, everyMs: 500, what: "the whole herd" });
}

export interface Spread {
  /** From the first to the last, in seconds. */
  readonly spanS: number;
  /** The most in any tenth of a second. */
  readonly mostInTenth: number;
}

export function spreadOf(welcomes: readonly Welcomed[]): Spread {
  const times = welcomes.map(({ atMs }) => atMs).toSorted((a, b) => a - b);
  const inTenth = times.map((from) => times.filter((at) => at >= from && at < from + 100).length);
  return { spanS: ((times.at(-1) ?? 0) - (times[0] ?? 0)) / 1000, mostInTenth: Math.max(0, ...inTenth) };
}
