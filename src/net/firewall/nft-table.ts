// An nft table as data: its text for loading, and its differences from what nft lists.
import { createHash } from "node:crypto";
import { cidrContains, cidrParts, ipBytes, type Cidr, type IpAddress } from "../../base/ip.ts";
import { checkedInterface } from "./checked-interface.ts";

export interface NftRule {
  readonly text: string;
  /** A few plain words, which `nft list` shows beside the rule. */
  readonly why: string;
}

export interface NftChain {
  readonly name: string;
  readonly type: "filter" | "nat" | "route";
  readonly hook: "prerouting" | "input" | "forward" | "output" | "postrouting" | "egress";
  /** Of the hook "egress" alone: the interface that it watches. */
  readonly device?: string;
  readonly priority: number;
  readonly policy: "accept" | "drop";
  readonly rules: readonly NftRule[];
}

export interface NftSet {
  readonly name: string;
  readonly type: "ifname" | "ipv4_addr" | "ipv6_addr" | `${string} . ${string}`;
  readonly flags: readonly ("interval" | "dynamic" | "timeout")[];
  /** Most elements, and how long each stays: of a set that packets fill. */
  readonly size?: number;
  readonly timeoutS?: number;
  /** As nft reads them; those of a set with timeouts belong to whoever renews them, and are not compared. */
  readonly elements: readonly string[];
}

export type NftFamily = "inet" | "netdev";

export interface NftTable {
  /** Default inet. */
  readonly family?: NftFamily;
  readonly name: string;
  readonly sets: readonly NftSet[];
  readonly chains: readonly NftChain[];
}

/** One transaction that puts the table in the place of whatever has its name; `more` is loaded with it. */
export function replacementText(table: NftTable, more = ""): string {
  const name = `table ${table.family ?? "inet"} ${table.name}`;
  return `add ${name}\ndelete ${name}\n${tableText(table)}${more}`;
}

/** Loads beside whatever is there. */
export function tableText(table: NftTable): string {
  const lines = [`table ${table.family ?? "inet"} ${table.name} {`];
  for (const set of table.sets) {
    lines.push(`  set ${set.name} {`, `    type ${set.type}`);
    if (set.flags.length > 0) lines.push(`    flags ${set.flags.join(", ")}`);
    if (set.size !== undefined) lines.push(`    size ${set.size}`);
    if (set.timeoutS !== undefined) lines.push(`    timeout ${set.timeoutS}s`);
    if (set.elements.length > 0) lines.push(`    elements = { ${set.elements.join(", ")} }`);
    lines.push("  }");
  }
  for (const chain of table.chains) {
    const device = chain.device === undefined ? "" : ` device ${quotedInterface(chain.device)}`;
    lines.push(
      `  chain ${chain.name} {`,
      `    type ${chain.type} hook ${chain.hook}${device} priority ${chain.priority}`,
    );
    lines.push(`    policy ${chain.policy}`);
    for (const rule of chain.rules) lines.push(`    ${rule.text} comment "${ruleComment(rule)}"`);
    lines.push("  }");
  }
  lines.push("}");
  return `${lines.join("\n")}\n`;
}

/**
 * nft lists a rule otherwise than it was written, so every rule carries a short hash of its text: one that was changed,
 * moved, added or taken away shows.
 */
function ruleComment(rule: NftRule): string {
  return `${createHash("sha256").update(rule.text).digest("hex").slice(0, 8)} ${rule.why}`;
}

/** A table as `nft -j list table` shows it, as far as we compare it. */
export interface ListedTable {
  readonly sets: ReadonlyMap<string, ListedSet>;
  readonly chains: ReadonlyMap<string, ListedChain>;
}

export interface ListedSet {
  readonly type: string;
  readonly flags: string;
  readonly elements: readonly ListedElement[];
}

export interface ListedElement {
  /** An address, `address/length`, or a name. */
  readonly value: string;
  /** Seconds left; null without a timeout. */
  readonly expiresS: number | null;
}

export interface ListedChain {
  readonly base: string;
  /** The comments of its rules, in order. */
  readonly rules: readonly string[];
}

/** Sentences; none when the listed table is the wanted one. */
export function tableDifferences(wanted: NftTable, listed: ListedTable | null): readonly string[] {
  if (listed === null) return [`The table "${wanted.name}" is missing.`];
  const found: string[] = [];
  const known = new Set([...wanted.sets.map((set) => set.name), ...wanted.chains.map((chain) => chain.name)]);
  for (const name of [...listed.sets.keys(), ...listed.chains.keys()]) {
    if (!known.has(name)) found.push(`The table "${wanted.name}" has a stranger named "${name}".`);
  }
  for (const set of wanted.sets) {
    const other = listed.sets.get(set.name);
    const same =
      other !== undefined &&
      other.type === set.type &&
      comparable(other.flags.split(",")) === comparable(set.flags) &&
      (set.flags.includes("timeout") || sameElements(set, other));
    if (!same) found.push(`The set "${set.name}" of "${wanted.name}" is not as wanted.`);
  }
  for (const chain of wanted.chains) {
    const other = listed.chains.get(chain.name);
    const same =
      other !== undefined &&
      other.base === chainBase(chain) &&
      other.rules.join("\n") === chain.rules.map(ruleComment).join("\n");
    if (!same) found.push(`The chain "${chain.name}" of "${wanted.name}" is not as wanted.`);
  }
  return found;
}

export function chainBase(chain: { type: string; hook: string; priority: number; policy: string }): string {
  return `${chain.type} ${chain.hook} ${chain.priority} ${chain.policy}`;
}

function sameElements(wanted: NftSet, listed: ListedSet): boolean {
  const values = listed.elements.map((element) => element.value);
  if (wanted.type === "ifname") return sorted(wanted.elements.map((text) => text.slice(1, -1))) === sorted(values);
  return sorted(wanted.elements.map(addressKey)) === sorted(values.map(addressKey));
}

/** nft 1.0.6 does not list "dynamic" in JSON. */
function comparable(flags: readonly string[]): string {
  return sorted(flags.filter((flag) => flag !== "dynamic" && flag !== ""));
}

function sorted(texts: readonly string[]): string {
  return [...texts].sort().join(" ");
}

/** Bytes and length: nft writes some IPv6 addresses otherwise than we do. */
function addressKey(text: string): string {
  const [address = "", length] = text.split("/");
  try {
    const bytes = ipBytes(address as IpAddress);
    return `${bytes.toHex()}/${length ?? bytes.length * 8}`;
  } catch {
    return text; // no address: equal to none of ours
  }
}

/** Prefixes for an interval set, where none may contain another; `/32` and `/128` as plain addresses. */
export function intervalElements(prefixes: readonly Cidr[]): readonly string[] {
  const kept: Cidr[] = [];
  const byLength = [...new Set(prefixes)].sort((a, b) => cidrParts(a).length - cidrParts(b).length);
  for (const prefix of byLength) {
    if (!kept.some((wider) => cidrContains(wider, cidrParts(prefix).address))) kept.push(prefix);
  }
  return kept.map((prefix) => prefix.replace(prefix.includes(":") ? /\/128$/ : /\/32$/, ""));
}

/** In quotes, as nft wants a name in a rule. Throws FirewallNameRefused for what the kernel would not take as an interface. */
export function quotedInterface(name: string): string {
  return `"${checkedInterface(name)}"`;
}
