// Kills a client or a node at every step of its way up and down, and compares the machine after state clean.
import { expect } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { DNS_FLAGS, HIGGS, higgsOrThrow, killAt, type KillPlan } from "./client-lab.ts";
import { snapshot } from "./harness.ts";

/** What a role's journal holds when it is all the way up: device, table, settings, rules, routes, names; at a node no names. */
export const ROLES = {
  client: { host: "laptop", command: [HIGGS, "client", "run"], delaysUp: 12, delaysDown: 8 },
  node: { host: "home-pc", command: [HIGGS, "node", ...DNS_FLAGS], delaysUp: 8, delaysDown: 5 },
} as const;
/** From the start of the process until some time after all is up, and from the signal until all is undone. */
const UP_MS = 1200;
const DOWN_MS = 200;

export async function journalOf(host: LabHost, role: "client" | "node"): Promise<number> {
  const { code, stdout } = await host.exec(["cat", `/var/lib/higgs/${role}/journal.json`]);
  return code === 0 ? (JSON.parse(stdout) as { undo: unknown[] }).undo.length : 0;
}

export function plans(role: "client" | "node", full: number): KillPlan["at"][] {
  const { delaysUp, delaysDown } = ROLES[role];
  const counts = Array.from({ length: full }, (_, i) => i + 1);
  return [
    ...counts.map((count) => ({ kind: "entries", count }) as const),
    ...counts.map((count) => ({ kind: "entries-left", full, count: count - 1 }) as const),
    ...Array.from({ length: delaysUp }, (_, i) => ({ kind: "delay", ms: (i * UP_MS) / delaysUp }) as const),
    ...Array.from(
      { length: delaysDown },
      (_, i) => ({ kind: "delay-down", full, ms: (i * DOWN_MS) / delaysDown }) as const,
    ),
  ];
}

/** Gives how many kills hit a living process, and at which numbers of entries in the journal. */
export async function killEverywhere(
  lab: Lab,
  role: "client" | "node",
  options: { readonly full: number; readonly before: string },
): Promise<void> {
  const host = lab.host(ROLES[role].host);
  const { command } = ROLES[role];
  const all = plans(role, options.full);
  const entries = new Map<number, number>();
  let killed = 0;
  for (const at of all) {
    const result = await killAt(host, { command, at, journalPath: `/var/lib/higgs/${role}/journal.json` });
    await higgsOrThrow(host, "state", "clean", "--role", role);
    const after = await snapshot(host);
    if (after !== options.before) expect({ at, result, after }).toEqual({ at, result, after: options.before });
    if (!result.killed) continue;
    killed++;
    entries.set(result.entries, (entries.get(result.entries) ?? 0) + 1);
  }
  const spread = [...entries].toSorted(([a], [b]) => a - b).map(([count, times]) => `${count}: ${times}`);
  console.log(`${role}: ${killed} kills of ${all.length} tries, by entries in the journal { ${spread.join(", ")} }`);
  // Some of those by time come when the process is over; those by the journal's state hardly ever.
  expect(killed).toBeGreaterThanOrEqual(2 * options.full);
  expect(entries.size).toBeGreaterThanOrEqual(options.full);
}
