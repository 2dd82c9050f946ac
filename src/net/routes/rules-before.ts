// Other programs' routing rules that send everybody's packets their own way before ours are asked: wg-quick's, or another VPN's.
import { z } from "zod";
import type { Family } from "../../base/ip.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";

export interface RuleBefore {
  readonly pref: number;
  /** Its number; null for a rule that refuses instead of leading somewhere. */
  readonly table: string | null;
  /** Where the table's default route leads; null for one that leads nowhere. */
  readonly interface: string | null;
}

export interface Place {
  /** The preference of our rule that takes everybody's packets; rules of the same preference come before it while it is not there. */
  readonly pref: number;
  /** Where that rule leads; null for a role that has none. */
  readonly table: number | null;
}

/** An exit has no rules: what it forwards goes by the main table, whose rule the kernel makes with the preference 32766. */
const MAIN_PLACE: Place = { pref: 32_765, table: null };

export function placeOf({ rulePrefs, routeTable }: Pick<Identifiers, "rulePrefs" | "routeTable">): Place {
  return rulePrefs === null ? MAIN_PLACE : { pref: rulePrefs.last, table: routeTable };
}

export async function rulesBefore(exec: Exec, place: Place, signal: AbortSignal): Promise<readonly RuleBefore[]> {
  const found = new Map<string, RuleBefore>();
  for (const family of [4, 6] as const) {
    for (const { pref, table } of rulesForAll(await listed(exec, family, ["rule"], signal), place)) {
      const routes = table === null ? null : await listed(exec, family, ["route", "show", "table", table], signal);
      const way = routes === null ? null : defaultIn(routes);
      if (table === null || way !== null) found.set(`${pref} ${table}`, { pref, table, interface: way?.dev ?? null });
    }
  }
  return [...found.values()];
}

/** `[]` for a family that the kernel has not, and a table without routes. */
async function listed(exec: Exec, family: Family, what: readonly string[], signal: AbortSignal): Promise<unknown> {
  const { code, stdout } = await exec.run(["ip", "-N", "-j", `-${family}`, ...what], { signal });
  return code === 0 && stdout.trim() !== "" ? JSON.parse(stdout) : [];
}

const RULES = z.array(
  z.looseObject({
    priority: z.number(),
    src: z.string().optional(),
    iif: z.string().optional(),
    table: z.string().optional(),
    action: z.string().optional(),
    suppress_prefixlen: z.number().optional(),
  }),
);
/** What a rule for everybody has, and nothing beyond it; or it is for all but a few ("not fwmark", as wg-quick has it). */
const PLAIN: ReadonlySet<string> = new Set(["priority", "src", "iif", "table", "action", "protocol", "flags"]);
const LOCAL_TABLES: ReadonlySet<string> = new Set(["local", "255"]);
/** rtnetlink(7), as names and as `ip -N` writes them: blackhole, unreachable, prohibit. */
const REFUSALS: ReadonlySet<string> = new Set(["blackhole", "unreachable", "prohibit", "6", "7", "8"]);

/** Pure, from `ip -N -j rule`, which lists them in the kernel's order. */
export function rulesForAll(json: unknown, place: Place): readonly Pick<RuleBefore, "pref" | "table">[] {
  const rules = RULES.parse(json);
  const ours = rules.findIndex((rule) => rule.priority === place.pref && rule.table === String(place.table));
  const before = ours < 0 ? rules.filter(({ priority }) => priority <= place.pref) : rules.slice(0, ours);
  return before.flatMap((rule): readonly Pick<RuleBefore, "pref" | "table">[] => {
    const isPlain = rule.src === "all" && Object.keys(rule).every((key) => PLAIN.has(key));
    const isForAll = ("not" in rule || isPlain) && (rule.iif === undefined || rule.iif === "lo");
    if (!isForAll || (rule.suppress_prefixlen ?? -1) >= 0) return [];
    if (rule.table === undefined) {
      return REFUSALS.has(rule.action ?? "") ? [{ pref: rule.priority, table: null }] : [];
    }
    return LOCAL_TABLES.has(rule.table) ? [] : [{ pref: rule.priority, table: rule.table }];
  });
}

const ROUTES = z.array(z.looseObject({ dst: z.string(), dev: z.string().optional(), type: z.string().optional() }));
/** Everything, or as good as that: tunnels lay halves over the default route, and 2000::/3 is all of IPv6 that is routed. */
const EVERYTHING: ReadonlySet<string> = new Set([
  "default",
  "0.0.0.0/1",
  "128.0.0.0/1",
  "::/1",
  "8000::/1",
  "2000::/3",
]);
const THROWS: ReadonlySet<string> = new Set(["throw", "9"]);

/** Pure, from `ip -N -j route show table T`; null for a table that leaves the most to the rules behind it. */
export function defaultIn(json: unknown): { readonly dev: string | null } | null {
  const found = ROUTES.parse(json).find(({ dst, type }) => EVERYTHING.has(dst) && !THROWS.has(type ?? ""));
  return found === undefined ? null : { dev: found.dev ?? null };
}

/** For a person; `switchOff` knows it again. */
export function ruleSentence(rule: RuleBefore): string {
  const where = rule.interface === null ? "refuses everything" : `sends everything into ${rule.interface}`;
  const table = rule.table === null ? "" : `, table ${rule.table}`;
  return `A routing rule of another program (preference ${rule.pref}${table}) ${where}.`;
}

/** What to type; null for a sentence that is not of here. */
export function switchOff(sentence: string): string | null {
  const found =
    /^A routing rule of another program \(preference (\d+)(?:, table \d+)?\) (?:sends everything into (\S+)\.|refuses)/.exec(
      sentence,
    );
  if (found === null) return null;
  const [, pref = "", name] = found;
  const quick = name === undefined ? "" : ` (wg-quick's: sudo wg-quick down ${name})`;
  return `Switch off the VPN that made it${quick}. What it is: ip rule show pref ${pref}`;
}
