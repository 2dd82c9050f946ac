// Talks to iptables, where nft is missing: finds the commands that work here, loads a role's chains, reads them back and takes them away.
import type { HiggsError } from "../../base/errors.ts";
import type { Family } from "../../base/ip.ts";
import { type Exec, type ExecResult, findTool, ToolFailed, ToolMissing, toolMissing } from "../exec.ts";
import { removeEach, removeListed } from "../remove-listed.ts";
import {
  chainDifferences,
  type IptablesChain,
  parseSave,
  removalOf,
  replacementOf,
  type SavedTables,
} from "./iptables-chains.ts";

/** "legacy" is the kernel's older mechanism, and needs root or CAP_NET_RAW; "nft" are the same commands over nf_tables. */
export type IptablesVariant = "legacy" | "nft";

/** The commands of one family. */
export interface Iptables {
  readonly family: Family;
  readonly save: string;
  readonly restore: string;
}

/** What a role loads, by family. */
export type ChainsOf = (family: Family) => readonly IptablesChain[];

export interface IptablesNeeds {
  /** Whether this kernel has IPv6, which needs chains of its own. */
  readonly ipv6: boolean;
  /** Chains on trial, without a hook: with every match and target that the role will use. */
  readonly trial: ChainsOf;
  /** This kind alone; default: either. */
  readonly only?: IptablesVariant;
}

/** By the machine's own choice first. */
const STEMS = ["iptables", "iptables-legacy", "iptables-nft"] as const;

/** Whether some iptables is on this machine, whatever it can do. */
export function hasIptables(): boolean {
  return STEMS.some((stem) => findTool(`${stem}-save`) !== null);
}

/** The commands that do all that is needed, IPv4 first; or why there are none. */
export async function findIptables(
  exec: Exec,
  needs: IptablesNeeds,
  signal: AbortSignal,
): Promise<readonly Iptables[] | HiggsError> {
  let trouble: HiggsError = toolMissing("iptables");
  for (const stem of STEMS) {
    const all = commandsOf(stem).filter(({ family }) => family === 4 || needs.ipv6);
    try {
      const isOther = needs.only !== undefined && (await variantOf(exec, commandsOf(stem)[0], signal)) !== needs.only;
      if (isOther) continue;
      for (const iptables of all) await tryOut(exec, { iptables, chains: needs.trial(iptables.family) }, signal);
      return all;
    } catch (thrown) {
      if (thrown instanceof ToolFailed) trouble = thrown;
      else if (!(thrown instanceof ToolMissing)) throw thrown;
    }
  }
  return trouble;
}

/** In two transactions: nothing leads to the chains while they are there. */
async function tryOut(
  exec: Exec,
  { iptables, chains }: { readonly iptables: Iptables; readonly chains: readonly IptablesChain[] },
  signal: AbortSignal,
): Promise<void> {
  await restore(exec, { iptables, text: replacementOf(chains, NOTHING, "") }, signal);
  const tables = Map.groupBy(chains, ({ table }) => table);
  const there = new Map([...tables].map(([table, all]) => [table, new Map(all.map(({ name }) => [name, []]))]));
  await restore(exec, { iptables, text: removalOf(there, "") }, signal);
}

const NOTHING: SavedTables = new Map();

/** Throws ToolFailed. */
export async function readChains(exec: Exec, iptables: Iptables, signal: AbortSignal): Promise<SavedTables> {
  const result = await exec.run([iptables.save], { signal });
  if (result.code !== 0) throw iptablesFailed(`read the rules by ${iptables.save}`, result);
  return parseSave(result.stdout);
}

/**
 * Makes one family's chains as wanted, in one transaction a table, and resolves with what was not: empty where nothing had to be done.
 * Throws ToolFailed.
 */
export async function loadChains(
  exec: Exec,
  wanted: { readonly iptables: Iptables; readonly chains: readonly IptablesChain[]; readonly prefix: string },
  signal: AbortSignal,
): Promise<readonly string[]> {
  const { iptables, chains, prefix } = wanted;
  let failed = null as { readonly text: string; readonly thrown: ToolFailed } | null;
  for (let tries = 1; ; tries++) {
    const saved = await readChains(exec, iptables, signal);
    const differences = chainDifferences(chains, saved, prefix);
    if (differences.length === 0) return differences;
    const text = replacementOf(chains, saved, prefix);
    if (failed?.text === text) throw failed.thrown;
    try {
      await restore(exec, { iptables, text }, signal);
      return differences;
    } catch (thrown) {
      // What it speaks of may have been taken away since it was read: then there is something else to be done.
      if (!(thrown instanceof ToolFailed) || tries === MOST_TRIES) throw thrown;
      failed = { text, thrown };
    }
  }
}

/** Of others who change rules all the time. */
const MOST_TRIES = 5;

/** `but`: leaves what is there in this way. */
export type RemoveOptions = AbortSignal | { readonly signal: AbortSignal; readonly but: IptablesVariant };

/** Where the commands put what they load. */
export async function variantOf(
  exec: Exec,
  { save }: Pick<Iptables, "save">,
  signal: AbortSignal,
): Promise<IptablesVariant> {
  return (await exec.run([save, "--version"], { signal })).stdout.includes("nf_tables") ? "nft" : "legacy";
}

/**
 * By whatever commands are there: the ones that loaded them may not be this machine's choice any more. True when there were some.
 */
export async function removeChains(exec: Exec, prefix: string, options: RemoveOptions): Promise<boolean> {
  const { signal, but = null } = options instanceof AbortSignal ? { signal: options } : options;
  return await removeEach(STEMS.flatMap(commandsOf), async (iptables) => {
    const list = async (): Promise<readonly string[]> => {
      const saved = await savedOrNothing(exec, iptables, signal);
      if (saved.size === 0 || (but !== null && (await variantOf(exec, iptables, signal)) === but)) return [];
      return removalOf(saved, prefix).split("\n").slice(0, -1);
    };
    return await removeListed(list, (lines) => restore(exec, { iptables, text: `${lines.join("\n")}\n` }, signal));
  });
}

/**
 * Every chain with the prefix and what leads to it, as `iptables-save` has them, by the command that shows them. `but`: as for
 * `removeChains`.
 */
export async function listChains(
  exec: Exec,
  prefix: string,
  options: RemoveOptions,
): Promise<readonly { readonly what: string; readonly lines: readonly string[] }[]> {
  const { signal, but = null } = options instanceof AbortSignal ? { signal: options } : options;
  const found = new Map<string, readonly string[]>();
  for (const iptables of STEMS.flatMap(commandsOf)) {
    const { save, family } = iptables;
    const saved = await savedOrNothing(exec, iptables, signal);
    if (saved.size === 0 || (but !== null && (await variantOf(exec, iptables, signal)) === but)) continue;
    for (const [table, chains] of saved) {
      const lines = [...chains.values()].flat().filter((line) => line.includes(` ${prefix}`));
      const names = [...chains.keys()].filter((name) => name.startsWith(prefix));
      if (names.length === 0 && lines.length === 0) continue;
      // Two names of one command show the same.
      const what = `${family === 4 ? "iptables" : "ip6tables"} chains ${prefix}* of ${table}`;
      if (found.get(what)?.join("\n") !== lines.join("\n"))
        found.set(found.has(what) ? `${what} (${save})` : what, lines);
    }
  }
  return [...found].map(([what, lines]) => ({ what, lines }));
}

/** A command that is missing, or does no work here, made nothing. */
async function savedOrNothing(
  exec: Exec,
  { save }: Pick<Iptables, "save" | "family">,
  signal: AbortSignal,
): Promise<SavedTables> {
  try {
    const result = await exec.run([save], { signal });
    return result.code === 0 ? parseSave(result.stdout) : NOTHING;
  } catch (thrown) {
    if (thrown instanceof ToolMissing) return NOTHING;
    throw thrown;
  }
}

async function restore(
  exec: Exec,
  { iptables, text }: { readonly iptables: Iptables; readonly text: string },
  signal: AbortSignal,
): Promise<void> {
  // Others hold its lock for moments.
  const result = await exec.run([iptables.restore, "--noflush", "-w", "5"], { stdin: text, signal });
  if (result.code !== 0) throw iptablesFailed(`load rules by ${iptables.restore}`, result);
}

/** Whether or not they are there. */
export function commandsOf(stem: (typeof STEMS)[number]): readonly [Iptables, Iptables] {
  const six = stem.replace("iptables", "ip6tables");
  return [
    { family: 4, save: `${stem}-save`, restore: `${stem}-restore` },
    { family: 6, save: `${six}-save`, restore: `${six}-restore` },
  ];
}

function iptablesFailed(what: string, { code, stderr }: ExecResult): ToolFailed {
  const said = stderr.trim().split("\n")[0] ?? "";
  return new ToolFailed(`Cannot ${what}: ${said === "" ? `exit code ${code}` : said}.`, {
    code: "iptables-unusable",
    remedy: "See whether this works: sudo iptables-save",
    detail: { code, stderr },
  });
}
