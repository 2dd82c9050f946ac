// What else has a say in this machine's packets: host firewalls, containers and other VPNs, read and never touched.
import { z } from "zod";
import { type Exec, findTool } from "./exec.ts";
import { readLegacyFilter } from "./firewall/legacy.ts";
import type { Identifiers } from "./identifiers.ts";
import { placeOf, type RuleBefore, rulesBefore } from "./routes/rules-before.ts";

/** One that was found, by what it shows of itself in the kernel: a program that is installed and off is none. */
export type Neighbour =
  | { readonly kind: "ufw" | "firewalld" | "docker" | "libvirt" }
  /** Chains of the old iptables drop what is forwarded; nft does not see them. */
  | { readonly kind: "legacy-forward-drop"; readonly family: 4 | 6 }
  /** Another tunnel that is up. */
  | { readonly kind: "tunnel"; readonly interface: string }
  /** A routing rule that takes everybody's packets before ours are asked. */
  | { readonly kind: "rule-before-ours"; readonly rule: RuleBefore };

export interface NeighbourEvidence {
  /** `nft -j list ruleset`, or null where it cannot be read. */
  readonly ruleset: unknown;
  /** `iptables-legacy-save -t filter` by family; null where the old tables are not loaded or cannot be read. */
  readonly legacy: Readonly<Record<4 | 6, string | null>>;
  /** `ip -j -d link`. */
  readonly links: unknown;
  readonly rules: readonly RuleBefore[];
}

export function neighboursIn(evidence: NeighbourEvidence, ours: readonly Identifiers[]): readonly Neighbour[] {
  return [
    ...firewallsIn(evidence),
    ...tunnelsIn(evidence.links, new Set(ours.map((one) => one.interface))),
    ...evidence.rules.map((rule) => ({ kind: "rule-before-ours", rule }) as const),
  ];
}

const RULESET = z.object({
  nftables: z.array(
    z.looseObject({
      table: z.looseObject({ name: z.string() }).optional(),
      chain: z.looseObject({ name: z.string() }).optional(),
    }),
  ),
});

/** Each by a name that it gives its chains, in nft's tables and in the old ones, or by its table. */
const SIGNS: readonly (readonly [Exclude<Neighbour["kind"], "tunnel">, RegExp])[] = [
  ["ufw", /^ufw6?-/],
  ["firewalld", /^firewalld$/],
  ["docker", /^DOCKER(-|$)/],
  ["libvirt", /^LIBVIRT_/],
];

function firewallsIn({ ruleset, legacy }: NeighbourEvidence): Neighbour[] {
  const parsed = RULESET.safeParse(ruleset);
  const listed = parsed.success ? parsed.data.nftables : [];
  const names = listed.flatMap(({ table, chain }) => [table?.name, chain?.name].filter((name) => name !== undefined));
  for (const text of Object.values(legacy)) {
    for (const [, name] of text?.matchAll(/^:(\S+) /gm) ?? []) if (name !== undefined) names.push(name);
  }
  const found: Neighbour[] = [];
  for (const [kind, sign] of SIGNS) {
    if (isSimple(kind) && names.some((name) => sign.test(name))) found.push({ kind });
  }
  for (const family of [4, 6] as const) {
    if (/^:FORWARD DROP/m.test(legacy[family] ?? "")) found.push({ kind: "legacy-forward-drop", family });
  }
  return found;
}

function isSimple(kind: Neighbour["kind"]): kind is "ufw" | "firewalld" | "docker" | "libvirt" {
  return kind === "ufw" || kind === "firewalld" || kind === "docker" || kind === "libvirt";
}

const LINKS = z.array(
  z.looseObject({
    ifname: z.string(),
    flags: z.array(z.string()),
    linkinfo: z.looseObject({ info_kind: z.string().optional() }).optional(),
  }),
);

function tunnelsIn(links: unknown, ours: ReadonlySet<string>): Neighbour[] {
  return LINKS.parse(links)
    .filter(({ ifname, flags, linkinfo }) => {
      const kind = linkinfo?.info_kind ?? "";
      // A TAP device is some virtual machine's network card.
      const isTunnel = kind === "wireguard" || (kind === "tun" && !flags.includes("BROADCAST"));
      return isTunnel && flags.includes("UP") && !ours.has(ifname);
    })
    .map(({ ifname }) => ({ kind: "tunnel", interface: ifname }));
}

/** `role`: before whose rules others' may stand. Throws nothing for what cannot be read: that is no neighbour. Needs root to see firewalls. */
export async function readNeighbours(
  exec: Exec,
  { ours, role }: { readonly ours: readonly Identifiers[]; readonly role: Identifiers },
  signal: AbortSignal,
): Promise<readonly Neighbour[]> {
  const json = async (argv: readonly [string, ...string[]]): Promise<unknown> => {
    if (findTool(argv[0]) === null) return null;
    const { code, stdout } = await exec.run(argv, { signal });
    return code === 0 && stdout.trim() !== "" ? JSON.parse(stdout) : null;
  };
  const [ruleset, legacy4, legacy6, links, rules] = await Promise.all([
    json(["nft", "-j", "list", "ruleset"]),
    readLegacyFilter(exec, 4, signal),
    readLegacyFilter(exec, 6, signal),
    json(["ip", "-j", "-d", "link"]),
    rulesBefore(exec, placeOf(role), signal),
  ]);
  const evidence = {
    ruleset,
    legacy: { 4: legacy4, 6: legacy6 },
    links: links ?? [],
    rules,
  };
  return neighboursIn(evidence, ours);
}
