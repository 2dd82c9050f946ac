// Chains of iptables as data: their text for iptables-restore, and their differences from what iptables-save shows.
import { createHash } from "node:crypto";

export type IptablesTable = "raw" | "mangle" | "nat" | "filter";
export type BuiltIn = "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING";

export interface IptablesRule {
  /** What it asks of a packet, as iptables takes it; empty for every packet. */
  readonly match: string;
  /** With its options, without `-j`. */
  readonly target: string;
  /** A few plain words, which `iptables-save` shows with the rule. */
  readonly why: string;
}

export interface IptablesChain {
  readonly table: IptablesTable;
  /** Begins with the role's prefix; at most 28 characters. */
  readonly name: string;
  /** The chain of the kernel whose very first rule leads here; null for one that others of ours lead to. */
  readonly hook: BuiltIn | null;
  readonly rules: readonly IptablesRule[];
}

/** A table as `iptables-save` shows it: the rules of each chain as they would be typed after `iptables`. */
export type SavedTables = ReadonlyMap<string, ReadonlyMap<string, readonly string[]>>;

/** Pure, from what `iptables-save` printed; comments and counters are left out. */
export function parseSave(text: string): SavedTables {
  const tables = new Map<string, Map<string, string[]>>();
  let chains = new Map<string, string[]>();
  for (const line of text.split("\n")) {
    const table = /^\*(\S+)$/.exec(line)?.[1];
    if (table !== undefined) {
      chains = new Map();
      tables.set(table, chains);
    }
    const chain = /^:(\S+) /.exec(line)?.[1];
    if (chain !== undefined) chains.set(chain, []);
    const rule = /^-A (\S+)/.exec(line)?.[1];
    if (rule !== undefined) chains.get(rule)?.push(line);
  }
  return tables;
}

/**
 * One transaction a table, in the order in which the chains name their tables: whatever bears the prefix is replaced, and each way in is
 * the first rule of its chain again. Everybody else's rules stay as they are.
 */
export function replacementOf(wanted: readonly IptablesChain[], saved: SavedTables, prefix: string): string {
  const tables = new Set<string>([...wanted.map((chain) => chain.table), ...saved.keys()]);
  return [...tables].map((table) => ofTable(table, { wanted, saved, prefix })).join("");
}

/** Takes away whatever bears the prefix; empty when nothing does. */
export function removalOf(saved: SavedTables, prefix: string): string {
  return replacementOf([], saved, prefix);
}

interface Situation {
  readonly wanted: readonly IptablesChain[];
  readonly saved: SavedTables;
  readonly prefix: string;
}

function ofTable(table: string, { wanted, saved, prefix }: Situation): string {
  const chains = wanted.filter((chain) => chain.table === table);
  const there = saved.get(table) ?? new Map<string, readonly string[]>();
  const stale = [...there.keys()].filter((name) => name.startsWith(prefix) && !chains.some((one) => one.name === name));
  const lines = [
    // With --noflush this makes a chain of ours, or empties it.
    ...chains.map(({ name }) => `:${name} - [0:0]`),
    ...waysIn(there, prefix).map((line) => line.replace(/^-A /, "-D ")),
    ...chains.flatMap((chain) => chain.rules.map((rule) => ruleText(chain.name, rule))),
    ...stale.map((name) => `-F ${name}`),
    ...stale.map((name) => `-X ${name}`),
    ...chains.flatMap((chain) => (chain.hook === null ? [] : [`-I ${chain.hook} 1 ${wayIn(chain.name)}`])),
  ];
  return lines.length === 0 ? "" : `*${table}\n${lines.join("\n")}\nCOMMIT\n`;
}

/** Sentences; none when the saved tables have exactly the wanted chains, each where it belongs. */
export function chainDifferences(
  wanted: readonly IptablesChain[],
  saved: SavedTables,
  prefix: string,
): readonly string[] {
  const found: string[] = [];
  for (const [table, chains] of saved) {
    for (const name of chains.keys()) {
      const isKnown = wanted.some((chain) => chain.table === table && chain.name === name);
      if (name.startsWith(prefix) && !isKnown) found.push(`The table "${table}" has a stranger named "${name}".`);
    }
    const led = wanted.filter((chain) => chain.table === table && chain.hook !== null).length;
    if (waysIn(chains, prefix).length > led) found.push(`The table "${table}" leads to "${prefix}…" more than once.`);
  }
  for (const chain of wanted) {
    const there = saved.get(chain.table);
    const rules = there?.get(chain.name);
    if (rules === undefined) {
      found.push(`The chain "${chain.name}" of "${chain.table}" is missing.`);
      continue;
    }
    if (rules.map(hashOf).join() !== chain.rules.map(ruleHash).join()) {
      found.push(`The chain "${chain.name}" of "${chain.table}" is not as wanted.`);
    }
    if (chain.hook !== null && firstWayIn(there?.get(chain.hook) ?? [], prefix) !== chain.name) {
      found.push(`"${chain.hook}" of "${chain.table}" does not begin with "${chain.name}".`);
    }
  }
  return found;
}

/** Lines of chains that are not ours and lead to one that is. */
function waysIn(chains: ReadonlyMap<string, readonly string[]>, prefix: string): readonly string[] {
  return [...chains]
    .filter(([name]) => !name.startsWith(prefix))
    .flatMap(([, rules]) => rules.filter((line) => jumpedTo(line)?.startsWith(prefix) === true));
}

/** What the first rule leads to; the other role's way in may stand before ours, as each puts its own first. */
function firstWayIn(rules: readonly string[], prefix: string): string | null {
  const isOfOtherRole = (to: string | null): boolean => to?.startsWith(EVERY_ROLE) === true && !to.startsWith(prefix);
  return rules.map(jumpedTo).find((to) => !isOfOtherRole(to)) ?? null;
}

/** What the prefixes of all roles begin with. */
const EVERY_ROLE = "higgs-";

function jumpedTo(line: string): string | null {
  return / -[jg] (\S+)/.exec(line)?.[1] ?? null;
}

function wayIn(name: string): string {
  return `-m comment --comment "higgs" -j ${name}`;
}

/**
 * iptables-save writes a rule otherwise than it was given, so every rule carries a short hash of its text: one that was changed,
 * moved, added or taken away shows.
 */
function ruleText(chain: string, rule: IptablesRule): string {
  const match = rule.match === "" ? "" : ` ${rule.match}`;
  return `-A ${chain}${match} -m comment --comment "${ruleHash(rule)} ${rule.why}" -j ${rule.target}`;
}

function ruleHash(rule: IptablesRule): string {
  return createHash("sha256").update(`${rule.match} -j ${rule.target}`).digest("hex").slice(0, 8);
}

function hashOf(line: string): string {
  return / --comment "([0-9a-f]{8}) /.exec(line)?.[1] ?? "";
}
