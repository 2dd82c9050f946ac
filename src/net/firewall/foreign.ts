// Finds other programs' nft chains that drop what an exit forwards, or what its clients ask its resolver, and says how they let it pass.
import { z } from "zod";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import { type LegacyDrop, legacyDropsIn, readLegacyFilter } from "./legacy.ts";

/**
 * One sentence for each base chain of another table that drops forwarded packets, or those to this machine, by policy or by a rule
 * without a condition, unless a rule of that table accepts our interface; and the same of the old iptables, which root alone can read.
 */
export async function foreignDrops(
  exec: Exec,
  identifiers: Identifiers,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const tunnel = identifiers.interface;
  const result = await exec.run(["nft", "-j", "list", "ruleset"], { signal });
  // Rules of iptables' own extensions make some versions of nft fail here; then nothing can be said.
  const sentences = result.code === 0 ? [...exitDropsIn(JSON.parse(result.stdout), tunnel)] : [];
  for (const family of [4, 6] as const) {
    const saved = await readLegacyFilter(exec, family, signal);
    if (saved !== null) sentences.push(...legacyDropsIn(saved, { family, tunnel }).map(legacySentence));
  }
  return sentences;
}

function legacySentence({ chain, family }: LegacyDrop): string {
  const what = DROPS[chain === "FORWARD" ? "forward" : "input"];
  return `The chain "${chain}" of the old iptables (legacy, IPv${family}) ${what}`;
}

const TABLE = { family: z.string(), table: z.string() };
const CHAIN = z.object({ ...TABLE, name: z.string(), hook: z.string().optional(), policy: z.string().optional() });
const RULE = z.object({ ...TABLE, chain: z.string(), expr: z.array(z.unknown()) });
const LISTING = z.object({
  nftables: z.array(z.object({ chain: CHAIN.optional(), rule: RULE.optional() })),
});

/** How a sentence about a chain ends. */
export const DROPS = {
  forward: "drops what this machine forwards.",
  input: "drops what clients ask its resolver.",
} as const;
type Hook = keyof typeof DROPS;

/** Pure, from the JSON of `nft -j list ruleset`: what is forwarded alone. */
export function forwardDropsIn(json: unknown, tunnel: string): readonly string[] {
  return dropsIn(json, { tunnel, hooks: ["forward"] });
}

/** Pure: what is forwarded, and what clients ask the resolver. */
export function exitDropsIn(json: unknown, tunnel: string): readonly string[] {
  return dropsIn(json, { tunnel, hooks: ["forward", "input"] });
}

function dropsIn(
  json: unknown,
  { tunnel, hooks }: { readonly tunnel: string; readonly hooks: readonly Hook[] },
): readonly string[] {
  const items = LISTING.parse(json).nftables;
  const chains = Map.groupBy(
    items.flatMap(({ rule }) => rule ?? []),
    (rule) => chainKey(rule, rule.chain),
  );
  const accepting = new Set<string>();
  const closing = new Set<string>();
  for (const { rule } of items) {
    if (rule === undefined) continue;
    if (acceptsInterface(rule, tunnel, chains)) accepting.add(`${rule.family} ${rule.table}`);
    if (dropsAll(rule.expr)) closing.add(`${rule.family} ${rule.table} ${rule.chain}`);
  }
  const sentences: string[] = [];
  for (const { chain } of items) {
    const hook = hooks.find((one) => one === chain?.hook);
    if (chain === undefined || hook === undefined || !["ip", "ip6", "inet"].includes(chain.family)) continue;
    const table = `${chain.family} ${chain.table}`;
    if (chain.table.startsWith("higgs") || accepting.has(table)) continue;
    if (chain.policy !== "drop" && !closing.has(`${table} ${chain.name}`)) continue;
    sentences.push(`The chain "${chain.name}" of the nft table "${table}" ${DROPS[hook]}`);
  }
  return sentences;
}

/** Whatever comes to such a rule goes no further: the end of a chain whose policy says otherwise. */
function dropsAll(expressions: readonly unknown[]): boolean {
  const kinds = kindsOf(expressions);
  return kinds.some((kind) => kind === "drop" || kind === "reject") && !hasCondition(expressions);
}

function hasCondition(expressions: readonly unknown[]): boolean {
  return kindsOf(expressions).some((kind) => CONDITIONS.includes(kind));
}

function kindsOf(expressions: readonly unknown[]): readonly string[] {
  return expressions.flatMap((one) => (typeof one === "object" && one !== null ? Object.keys(one) : []));
}

/** What a rule may ask of a packet; the rest counts, logs or decides. */
const CONDITIONS: readonly string[] = ["match", "vmap", "limit", "xt", "quota", "lookup", "ct count"];

/** Of the kind of iptables that has none of our rules. */
export const BESIDES = ", which is in force besides,";
const OF_IPTABLES = new RegExp(`^The chain "(FORWARD|INPUT)" of "(ip6?tables[a-z-]*)"(${BESIDES})? drops`);

/** What to type so that they let the exit's packets pass; null for a sentence that is not of here. Our own table isolates all the same. */
export function letPass(sentence: string, tunnel: string): string | null {
  const legacy = /^The chain "(FORWARD|INPUT)" of the old iptables \(legacy, IPv([46])\) drops/.exec(sentence);
  if (legacy !== null) {
    return byIptables(legacy[2] === "4" ? "iptables-legacy" : "ip6tables-legacy", legacy[1] ?? "", tunnel);
  }
  const [, chainName = "", tool = "", besides] = OF_IPTABLES.exec(sentence) ?? [];
  // Among our own rules, behind our way in, which is the first: what is accepted before it would not be asked by them.
  if (tool !== "") return byIptables(tool, besides === undefined ? `${chainName} 2` : chainName, tunnel);
  const found = /^The chain "([^"]+)" of the nft table "(ip6?|inet) ([^"]+)" drops/.exec(sentence);
  if (found === null) return null;
  const [, chain = "", family = "", table = ""] = found;
  if (family !== "inet" && table === "filter" && ["FORWARD", "INPUT"].includes(chain)) {
    return byIptables(family === "ip" ? "iptables" : "ip6tables", chain, tunnel);
  }
  // Its own rules are made anew at every reload.
  if (table === "firewalld") {
    return `sudo firewall-cmd --permanent --zone=trusted --add-interface=${tunnel} && sudo firewall-cmd --reload`;
  }
  const insert = `sudo nft insert rule ${family} ${table} ${chain}`;
  const inwards = `${insert} iifname ${tunnel} accept`;
  const isForward = sentence.endsWith(DROPS.forward);
  return isForward ? `${inwards} && ${insert} oifname ${tunnel} ct state established,related accept` : inwards;
}

function byIptables(tool: string, chain: string, tunnel: string): string {
  const inwards = `sudo ${tool} -I ${chain} -i ${tunnel} -j ACCEPT`;
  const answers = `sudo ${tool} -I ${chain} -o ${tunnel} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`;
  return chain.startsWith("INPUT") ? inwards : `${inwards} && ${answers}`;
}

type Rule = z.infer<typeof RULE>;
type Chains = ReadonlyMap<string, readonly Rule[]>;

function chainKey({ family, table }: Pick<Rule, "family" | "table">, chain: string): string {
  return `${family} ${table} ${chain}`;
}

/** Itself, or by a chain that it leads to, as firewalld's zones do. */
function acceptsInterface(rule: Rule, tunnel: string, chains: Chains): boolean {
  return rule.expr.some((expression) => matchesInterface(expression, tunnel)) && accepts(rule, chains, MOST_JUMPS);
}

/** The kernel allows 16. */
const MOST_JUMPS = 16;

function accepts(rule: Rule, chains: Chains, jumpsLeft: number): boolean {
  if (rule.expr.some((one) => typeof one === "object" && one !== null && "accept" in one)) return true;
  const [name] = rule.expr.flatMap((one) => {
    const leads = LEADS.safeParse(one).data;
    return (leads?.jump ?? leads?.goto)?.target ?? [];
  });
  if (name === undefined || jumpsLeft === 0) return false;
  const led = chains.get(chainKey(rule, name)) ?? [];
  return led.some((one) => !hasCondition(one.expr) && accepts(one, chains, jumpsLeft - 1));
}

const TARGET = z.object({ target: z.string() });
const LEADS = z.object({ jump: TARGET.optional(), goto: TARGET.optional() });

const MATCH = z.object({
  match: z.object({
    op: z.literal("=="),
    left: z.object({ meta: z.object({ key: z.literal("iifname") }) }),
    right: z.unknown(),
  }),
});

function matchesInterface(expression: unknown, tunnel: string): boolean {
  const match = MATCH.safeParse(expression);
  if (!match.success) return false;
  const right = match.data.match.right;
  // "higgs*" and sets of names are quoted whole; the name in there is enough to know that a person thought of us.
  return right === tunnel || JSON.stringify(right).includes('"higgs');
}
