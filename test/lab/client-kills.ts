// Kills a client or a node, its wireguard-go, or both at every step of the way up and down, and compares the machine afterwards.
import { expect } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import {
  DNS_FLAGS,
  HIGGS,
  higgsOrThrow,
  HOME4,
  HOME6,
  killAt,
  killNow,
  PAGE,
  PAGE4,
  pidOf,
  startServer,
} from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";
import { type Aftermath, type Killed, type KillPlan, type Victim, VICTIMS } from "./kill-moment.ts";

export type KilledRole = "client" | "node";

const ROLES = {
  client: {
    host: "laptop",
    command: [HIGGS, "client", "run"],
    interface: "higgs0",
    works: { argv: [HIGGS, "lab-service", "fetch", PAGE], pattern: `^(${HOME4}|${HOME6})\\s*$` },
    delaysUp: 12,
    delaysDown: 8,
  },
  node: {
    host: "home-pc",
    command: [HIGGS, "node", ...DNS_FLAGS],
    interface: "higgsn0",
    works: { argv: [HIGGS, "node", "status", "--json"], pattern: '"ready": *true' },
    delaysUp: 8,
    delaysDown: 5,
  },
} as const;
/** From the start of the process until some time after all is up, and from the signal until all is undone. */
const UP_MS = 1200;
const DOWN_MS = 200;
/** Moments of the way down at which wireguard-go alone is killed, beside those of all victims. */
const RACES = 12;
/** A machine that dials the server more than thirty times a minute is held back: its limits start anew with it. */
const STARTS_A_SERVER = 20;
/** A step that was passed before the kill came is tried again. */
const TRIES = 3;
/** As long as one of these is there, a client on its way down keeps the machine closed. */
const LEADS_INTO_TUNNEL: readonly string[] = ["ip-rules", "ip-routes", "resolv-conf"];

export interface Try {
  readonly at: KillPlan["at"];
  readonly victim: Victim;
}

/** With HIGGS_KILLS=all every victim at every step; otherwise each step has one, in turn. */
export const ALL_KILLS = process.env["HIGGS_KILLS"] === "all";

/** The kinds of its entries. */
export async function journalOf(host: LabHost, role: KilledRole): Promise<readonly string[]> {
  const { code, stdout } = await host.exec(["cat", journalPath(role)]);
  return code === 0 ? (JSON.parse(stdout) as { undo: { kind: string }[] }).undo.map(({ kind }) => kind) : [];
}

function journalPath(role: KilledRole): string {
  return `/var/lib/higgs/${role}/journal.json`;
}

/** At each number of entries on the way up and on the way down; `full` is the journal of a role that is all the way up. */
export function stepTries(full: readonly string[], victims: readonly Victim[] = VICTIMS): readonly Try[] {
  const counts = full.map((_, i) => i + 1);
  const steps: KillPlan["at"][] = [
    ...counts.map((count) => ({ kind: "entries", count }) as const),
    ...counts.map((count) => ({ kind: "entries-left", full: full.length, count: count - 1 }) as const),
  ];
  const hasWireGuard = full.indexOf("wireguard-device") + 1;
  // There is no wireguard-go to be killed alone before the device's entry, and none after it is gone again.
  return withVictims(steps, victims).filter(({ at, victim }) => {
    return victim !== "wireguard-go" || !("count" in at) || at.count >= hasWireGuard;
  });
}

export function momentTries(role: KilledRole, full: readonly string[]): readonly Try[] {
  const { delaysUp, delaysDown } = ROLES[role];
  const few = ALL_KILLS ? 1 : 2;
  const spread = (count: number, ms: number): number[] => Array.from({ length: count }, (_, i) => (i * ms) / count);
  const down = (ms: number): KillPlan["at"] => ({ kind: "delay-down", full: full.length, ms });
  return [
    ...withVictims(
      [
        ...spread(Math.ceil(delaysUp / few), UP_MS).map((ms) => ({ kind: "delay", ms }) as const),
        ...spread(Math.ceil(delaysDown / few), DOWN_MS).map(down),
      ],
      VICTIMS,
    ),
    // What its interface takes with it is taken away by the role at the same time.
    ...spread(RACES / few, DOWN_MS / 2).map((ms) => ({ at: down(ms), victim: "wireguard-go" }) as const),
  ];
}

function withVictims(moments: readonly KillPlan["at"][], victims: readonly Victim[]): readonly Try[] {
  if (ALL_KILLS) return victims.flatMap((victim) => moments.map((at) => ({ at, victim })));
  return moments.map((at, i) => ({ at, victim: victims[i % victims.length] ?? "role" }));
}

export class Killing {
  readonly #lab: Lab;
  readonly #role: KilledRole;
  readonly #host: LabHost;
  readonly #steps = new Map<Victim, { readonly up: Set<number>; readonly down: Set<number> }>();
  readonly #aftermaths = new Map<string, number[]>();
  #starts = 0;
  #tries = 0;
  #kills = 0;

  constructor(lab: Lab, role: KilledRole) {
    this.#lab = lab;
    this.#role = role;
    this.#host = lab.host(ROLES[role].host);
  }

  /** Kills the victim then. One that was missed is tried again; what it left is for the caller to look at and to mend in `after`. */
  async kill({ at, victim }: Try, after: (result: Killed) => Promise<void>): Promise<void> {
    for (let i = 0; i < TRIES; i++) {
      await this.#serverForStart();
      const { command, interface: name, works } = ROLES[this.#role];
      const plan: KillPlan = { command, at, victim, interface: name, works, journalPath: journalPath(this.#role) };
      const result = await killAt(this.#host, plan);
      this.#tries++;
      if (result.killed) this.#count({ at, victim }, result);
      await after(result);
      if (!("count" in at) || (result.killed && result.entries.length === at.count)) return;
    }
  }

  /** One of the lab's starts more, of whatever needs the server. */
  async started(): Promise<void> {
    await this.#serverForStart();
  }

  async #serverForStart(): Promise<void> {
    if (this.#starts++ % STARTS_A_SERVER !== 0) return;
    const vps = this.#lab.host("vps");
    await killNow(vps, await pidOf(vps, "server"));
    await startServer(this.#lab);
    if (this.#role === "node") return;
    const machines = async (): Promise<string> => await vps.execOrThrow([HIGGS, "server", "machines", "--json"]);
    await until(async () => /"online": *true/.test(await machines()), { what: "the node at the new server" });
  }

  #count({ at, victim }: Try, { entries, aftermath }: Killed): void {
    this.#kills++;
    const { up, down } = this.#steps.get(victim) ?? { up: new Set<number>(), down: new Set<number>() };
    this.#steps.set(victim, { up, down });
    const way = isDown({ at }) ? "down" : "up";
    (way === "up" ? up : down).add(entries.length);
    if (aftermath === null) return;
    const ms = aftermath.kind === "neither" ? 0 : aftermath.ms;
    const key = `${aftermath.kind} on the way ${way}`;
    this.#aftermaths.set(key, [...(this.#aftermaths.get(key) ?? []), ms]);
  }

  /** Writes what was done, and fails where steps of `tries` were not reached. */
  expectReached(what: string, tries: readonly Try[]): void {
    const list = (numbers: Iterable<number>): string => [...numbers].toSorted((a, b) => a - b).join(" ");
    console.log(
      `${this.#role}, ${what}: ${this.#kills} kills of ${this.#tries} tries; steps by entries in the journal:`,
    );
    for (const [victim, { up, down }] of this.#steps) {
      console.log(`  ${victim}: up { ${list(up)} }, down { ${list(down)} }`);
    }
    for (const [key, ms] of this.#aftermaths) {
      console.log(`  without wireguard-go, ${ms.length} ${key}, the last after ${Math.max(...ms)} ms`);
    }
    const wanted = { up: new Map<Victim, number>(), down: new Map<Victim, number>() };
    for (const { at, victim } of tries) {
      const way = at.kind === "entries" ? wanted.up : at.kind === "entries-left" ? wanted.down : null;
      way?.set(victim, (way.get(victim) ?? 0) + 1);
    }
    for (const way of ["up", "down"] as const) {
      for (const [victim, count] of wanted[way]) {
        // One may be so short that the kill never comes in time.
        const reached = this.#steps.get(victim)?.[way].size ?? 0;
        if (reached < count - 1) expect({ victim, way, reached }).toEqual({ victim, way, reached: count });
      }
    }
  }
}

/** Kills at each, and has the machine back to the last byte after `state clean`; after a role that lost its WireGuard alone, without. */
export async function killAndClean(
  lab: Lab,
  role: KilledRole,
  options: { readonly what: string; readonly tries: readonly Try[]; readonly before: string },
): Promise<void> {
  const host = lab.host(ROLES[role].host);
  const killing = new Killing(lab, role);
  for (const one of options.tries) {
    await killing.kill(one, async (result) => {
      if (result.aftermath === null) {
        if (role === "client") await expectClosed(host, one, result);
        await higgsOrThrow(host, "state", "clean", "--role", role);
      } else {
        expect({ one, result, isFine: isFine(one, result.aftermath) }).toEqual({ one, result, isFine: true });
      }
      const after = await snapshot(host);
      if (after !== options.before) expect({ one, result, after }).toEqual({ one, result, after: options.before });
    });
  }
  killing.expectReached(options.what, options.tries);
}

/** It works again, or ends with everything put back. */
function isFine(one: Try, aftermath: Aftermath): boolean {
  if (aftermath.kind === "neither") return false;
  return aftermath.code === 0 || (aftermath.kind === "ended" && !isDown(one));
}

/** A client that was connected and died on its way down lets nothing pass beside the tunnel while anything still leads into it. */
async function expectClosed(host: LabHost, one: Try, { entries }: Killed): Promise<void> {
  if (!isDown(one)) return;
  if (!entries.some((kind) => LEADS_INTO_TUNNEL.includes(kind))) return;
  const seen = await addressSeen(host);
  if (!["", HOME4].includes(seen)) expect({ one, entries, seen }).toEqual({ one, entries, seen: "" });
}

/** By the web, of a program that has so long; "" where nothing passes. */
export async function addressSeen(host: LabHost, seconds = 1): Promise<string> {
  const { code, stdout } = await host.exec(["timeout", String(seconds), HIGGS, "lab-service", "fetch", PAGE4]);
  return code === 0 ? stdout.trim() : "";
}

function isDown({ at }: Pick<Try, "at">): boolean {
  return at.kind === "entries-left" || at.kind === "delay-down";
}
