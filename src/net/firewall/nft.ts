// Talks to nft: loads rulesets, reads tables back as JSON, and takes a role's table away.
import { z } from "zod";
import { output, ToolFailed, type Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import {
  chainBase,
  type ListedChain,
  type ListedElement,
  type ListedSet,
  type ListedTable,
  type NftFamily,
} from "./nft-table.ts";

/** Loads a ruleset in one transaction: all of it, or nothing. Throws ToolFailed. */
export async function loadRuleset(exec: Exec, ruleset: string, signal: AbortSignal): Promise<void> {
  await output(exec, ["nft", "-f", "-"], { stdin: ruleset, signal });
}

export interface ReadOptions {
  readonly signal: AbortSignal;
  /** Without the elements of its sets. */
  readonly terse?: boolean;
  /** Default inet. */
  readonly family?: NftFamily;
}

/** Null when there is no such table. */
export async function readTable(
  exec: Exec,
  table: string,
  options: AbortSignal | ReadOptions,
): Promise<ListedTable | null> {
  const { signal, terse = false, family = "inet" } = options instanceof AbortSignal ? { signal: options } : options;
  const how = terse ? (["-j", "-t"] as const) : (["-j"] as const);
  const result = await exec.run(["nft", ...how, "list", "table", family, table], { signal });
  if (result.code === 0) return listedTable(JSON.parse(result.stdout));
  if (isMissing(result.stderr)) return null;
  throw nftFailed(`list the nft table "${table}"`, result);
}

/** Takes a table of the role away, from whatever state, without memory. True when there was one. */
export async function removeTable(
  exec: Exec,
  { table, family = "inet" }: Pick<Identifiers, "table"> & { readonly family?: NftFamily },
  signal: AbortSignal,
): Promise<boolean> {
  const result = await exec.run(["nft", "delete", "table", family, table], { signal });
  if (result.code === 0) return true;
  if (isMissing(result.stderr)) return false;
  throw nftFailed(`delete the nft table "${table}"`, result);
}

/** True for what nft says of a table, set or element that is not there. */
export function isMissing(stderr: string): boolean {
  return /No such file or directory/.test(stderr);
}

export function nftFailed(what: string, result: { readonly code: number; readonly stderr: string }): ToolFailed {
  return new ToolFailed(`Cannot ${what}: ${result.stderr.trim() || `exit code ${result.code}`}.`, {
    code: "tool-failed",
    detail: { code: result.code, stderr: result.stderr },
  });
}

const ADDRESS = z.union([z.string(), z.object({ prefix: z.object({ addr: z.string(), len: z.number() }) })]);
const ELEMENT = z.union([ADDRESS, z.object({ elem: z.object({ val: ADDRESS, expires: z.number().optional() }) })]);
const SET = z.object({
  name: z.string(),
  type: z.unknown(),
  /** Some versions of nft print a single flag without its list. */
  flags: z.union([z.string().transform((flag) => [flag]), z.array(z.string())]).optional(),
  elem: z.array(z.unknown()).optional(),
});
const CHAIN = z.object({
  name: z.string(),
  type: z.string().optional(),
  hook: z.string().optional(),
  prio: z.number().optional(),
  policy: z.string().optional(),
});
const RULE = z.object({ chain: z.string(), comment: z.string().optional() });
const LISTING = z.object({ nftables: z.array(z.record(z.string(), z.unknown())) });

/** From the JSON of `nft -j list table`; an object of a kind that we never make is kept as a chain of its name. */
export function listedTable(json: unknown): ListedTable {
  const sets = new Map<string, ListedSet>();
  const chains = new Map<string, ListedChain & { readonly rules: string[] }>();
  for (const item of LISTING.parse(json).nftables) {
    for (const [kind, value] of Object.entries(item)) {
      if (kind === "metainfo" || kind === "table") continue;
      if (kind === "set") {
        const set = SET.parse(value);
        const elements = (set.elem ?? []).map(listedElement);
        const type = Array.isArray(set.type) ? set.type.join(" . ") : String(set.type);
        sets.set(set.name, { type, flags: (set.flags ?? []).join(","), elements });
      } else if (kind === "rule") {
        const rule = RULE.parse(value);
        chains.get(rule.chain)?.rules.push(rule.comment ?? "");
      } else {
        const { name, type = kind, hook = "", prio = 0, policy = "" } = CHAIN.parse(value);
        chains.set(name, { base: chainBase({ type, hook, priority: prio, policy }), rules: [] });
      }
    }
  }
  return { sets, chains };
}

function listedElement(json: unknown): ListedElement {
  const parsed = ELEMENT.safeParse(json);
  if (!parsed.success) return { value: JSON.stringify(json), expiresS: null };
  const element = parsed.data;
  if (typeof element === "string" || "prefix" in element) return { value: addressText(element), expiresS: null };
  return { value: addressText(element.elem.val), expiresS: element.elem.expires ?? null };
}

function addressText(address: z.infer<typeof ADDRESS>): string {
  return typeof address === "string" ? address : `${address.prefix.addr}/${address.prefix.len}`;
}
