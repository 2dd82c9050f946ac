// Finds other programs' nft chains that drop what an exit forwards.
import { z } from "zod";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";

/**
 * One sentence for each base chain of another table that drops forwarded packets by policy, unless a rule of that table
 * accepts our interface. Chains of the old iptables (legacy) are invisible to nft.
 */
export async function foreignForwardDrop(
  exec: Exec,
  identifiers: Identifiers,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const result = await exec.run(["nft", "-j", "list", "ruleset"], { signal });
  // Rules of iptables' own extensions make some versions of nft fail here; then nothing can be said.
  return result.code === 0 ? forwardDropsIn(JSON.parse(result.stdout), identifiers.interface) : [];
}

const TABLE = { family: z.string(), table: z.string() };
const CHAIN = z.object({ ...TABLE, name: z.string(), hook: z.string().optional(), policy: z.string().optional() });
const RULE = z.object({ ...TABLE, expr: z.array(z.unknown()) });
const LISTING = z.object({
  nftables: z.array(z.object({ chain: CHAIN.optional(), rule: RULE.optional() })),
});

/** Pure, from the JSON of `nft -j list ruleset`. */
export function forwardDropsIn(json: unknown, tunnel: string): readonly string[] {
  const items = LISTING.parse(json).nftables;
  const accepting = new Set<string>();
  for (const { rule } of items) {
    if (rule !== undefined && acceptsInterface(rule.expr, tunnel)) accepting.add(`${rule.family} ${rule.table}`);
  }
  const sentences: string[] = [];
  for (const { chain } of items) {
    if (chain?.hook !== "forward" || chain.policy !== "drop") continue;
    if (!["ip", "ip6", "inet"].includes(chain.family)) continue;
    const table = `${chain.family} ${chain.table}`;
    if (!accepting.has(table)) {
      sentences.push(`The chain "${chain.name}" of the nft table "${table}" drops what this machine forwards.`);
    }
  }
  return sentences;
}

function acceptsInterface(expressions: readonly unknown[], tunnel: string): boolean {
  const accepts = expressions.some(
    (expression) => typeof expression === "object" && expression !== null && "accept" in expression,
  );
  return accepts && expressions.some((expression) => matchesInterface(expression, tunnel));
}

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
