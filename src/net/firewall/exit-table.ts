// The rules of an exit: what clients may reach, and that nothing reaches them.
import { type Cidr, type Family, familyOf, type IpAddress } from "../../base/ip.ts";
import type { PortRange } from "../../proto/exit-terms.ts";
import { mergedRanges } from "./merged-ranges.ts";
import { DENIED4, DENIED6, type ExitOutlet, type ExitPolicy, NEVER4, NEVER6 } from "./exit.ts";
import {
  intervalElements,
  type NftChain,
  type NftRule,
  type NftSet,
  type NftTable,
  quotedInterface,
} from "./nft-table.ts";

/** Before the host's own filter chains, which have 0: what is dropped here is dropped, what passes is still theirs to drop. */
const BEFORE_FILTER = -5;
const DSTNAT = -100;
const SRCNAT = 100;

/**
 * The lease is empty here: its element comes with the transaction that loads the table, or with a renewal.
 * Without it replies, new connections and DNS are dropped; everything that isolates is outside of it.
 */
export function exitTable(name: string, policy: ExitPolicy): NftTable {
  const tunnel = quotedInterface(policy.interface);
  return {
    name,
    sets: exitSets(policy),
    chains: [forward(tunnel, policy.outlet), input(tunnel, policy), dns(tunnel, policy), nat(tunnel, policy.outlet)],
  };
}

function exitSets(policy: ExitPolicy): readonly NftSet[] {
  return [
    { name: "lease", type: "ifname", flags: ["timeout"], elements: [] },
    { name: "uplink", type: "ifname", flags: [], elements: [...new Set(policy.uplinks)].map(quotedInterface) },
    interfaces("fence4", policy.fence4, policy),
    interfaces("fence6", policy.fence6, policy),
    { name: "clients4", type: "ipv4_addr", flags: [], elements: [...new Set(policy.clients4)] },
    { name: "clients6", type: "ipv6_addr", flags: [], elements: [...new Set(policy.clients6)] },
    prefixes("never4", NEVER4),
    prefixes("never6", NEVER6),
    prefixes("closed4", ofFamily(policy.outlet.closed, 4)),
    prefixes("closed6", ofFamily(policy.outlet.closed, 6)),
    prefixes("deny4", DENIED4),
    prefixes("deny6", DENIED6),
    prefixes("here4", policy.here4),
    prefixes("here6", policy.here6),
  ];
}

function interfaces(name: string, all: readonly string[], policy: ExitPolicy): NftSet {
  const elements = [...new Set(all)].filter((one) => one !== policy.interface).map(quotedInterface);
  return { name, type: "ifname", flags: [], elements };
}

function prefixes(name: string, all: readonly Cidr[]): NftSet {
  const type = name.endsWith("4") ? "ipv4_addr" : "ipv6_addr";
  return { name, type, flags: ["interval"], elements: intervalElements(all) };
}

function ofFamily(all: readonly Cidr[], family: Family): readonly Cidr[] {
  return all.filter((prefix) => familyOf(prefix) === family);
}

function forward(tunnel: string, outlet: ExitOutlet): NftChain {
  return {
    name: "forward",
    type: "filter",
    hook: "forward",
    priority: BEFORE_FILTER,
    policy: "accept",
    rules: [
      // Two rules: a packet of no connection has no status that a rule could deny.
      ...([4, 6] as const).flatMap((family) => {
        const between = `meta nfproto ipv${family} iifname @fence${family} oifname @fence${family}`;
        return [
          rule(`${between} ct status dnat accept`, "redirected on purpose"),
          rule(`${between} drop`, "no router for its neighbours"),
        ];
      }),
      rule(`iifname != ${tunnel} oifname != ${tunnel} return`, "not of the tunnel"),
      rule(`iifname ${tunnel} oifname ${tunnel} drop`, "no client reaches another"),
      rule(`oifname ${tunnel} oifname != @lease drop`, "closed without a lease"),
      rule(`oifname ${tunnel} ${CLAMP}`, "segments that fit the tunnel"),
      rule(`oifname ${tunnel} ct state established,related accept`, "answers to clients"),
      rule(`oifname ${tunnel} drop`, "nothing else reaches a client"),
      rule("iifname != @lease drop", "closed without a lease"),
      rule("meta nfproto ipv4 ip saddr != @clients4 drop", "no other source"),
      rule("meta nfproto ipv6 ip6 saddr != @clients6 drop", "no other source"),
      rule("ct state invalid drop", "no flow of ours"),
      rule(CLAMP, "segments that fit the way out"),
      rule("ip daddr @never4 reject with icmpx admin-prohibited", "never, whatever is open"),
      rule("ip6 daddr @never6 reject with icmpx admin-prohibited", "never, whatever is open"),
      rule("ip daddr @closed4 reject with icmpx admin-prohibited", "closed by the owner"),
      rule("ip6 daddr @closed6 reject with icmpx admin-prohibited", "closed by the owner"),
      ...outlet.lan.map(opened),
      rule("oifname != @uplink drop", "only the internet"),
      rule("ip daddr @deny4 reject with icmpx admin-prohibited", "no public address"),
      rule("ip6 daddr @deny6 reject with icmpx admin-prohibited", "no public address"),
      rule("ip daddr @here4 reject with icmpx admin-prohibited", "the place of the node"),
      rule("ip6 daddr @here6 reject with icmpx admin-prohibited", "the place of the node"),
      ...(outlet.mail ? [] : [rule("tcp dport 25 reject with icmpx admin-prohibited", "no mail from strangers")]),
      ...(outlet.ports === null ? [] : limited(outlet.ports)),
    ],
  };
}

/** A part of the owner's place, for every client or for some. */
function opened({ prefix, sources }: ExitOutlet["lan"][number]): NftRule {
  const ip = familyOf(prefix) === 4 ? "ip" : "ip6";
  const from = sources === null ? "" : `${ip} saddr { ${sources.join(", ")} } `;
  return rule(`${from}${ip} daddr ${prefix} accept`, "opened by the owner");
}

/** Echo requests and other protocols are no ports, and pass. */
function limited(ports: readonly PortRange[]): readonly NftRule[] {
  return (["tcp", "udp"] as const).map((protocol) => {
    const ranges = mergedRanges(ports.filter((range) => range.protocol === protocol));
    const all = ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`));
    const not = all.length === 0 ? "" : ` ${protocol} dport != { ${all.join(", ")} }`;
    return rule(`meta l4proto ${protocol}${not} reject with icmpx admin-prohibited`, "only these ports");
  });
}

const CLAMP = "tcp flags syn / syn,rst tcp option maxseg size set rt mtu";

function input(tunnel: string, policy: ExitPolicy): NftChain {
  return {
    name: "input",
    type: "filter",
    hook: "input",
    priority: BEFORE_FILTER,
    policy: "accept",
    rules: [
      ...policy.addresses.map((address) =>
        rule(`iifname != { "lo", ${tunnel} } ${daddr(address)} drop`, "tunnel address by the tunnel only"),
      ),
      rule(`iifname != ${tunnel} return`, "not of the tunnel"),
      rule("ct state established,related accept", "answers to the node"),
      rule("meta nfproto ipv4 ip saddr != @clients4 drop", "no other source"),
      rule("meta nfproto ipv6 ip6 saddr != @clients6 drop", "no other source"),
      rule(
        `iifname @lease meta l4proto { tcp, udp } th dport ${policy.resolverPort} ct status dnat accept`,
        "DNS that was brought here",
      ),
      rule("icmp type echo-request limit rate 10/second accept", "ping"),
      rule("icmpv6 type echo-request limit rate 10/second accept", "ping"),
      rule("drop", "nothing else of the node"),
    ],
  };
}

function daddr(address: IpAddress): string {
  return familyOf(address) === 4 ? `ip daddr ${address}` : `ip6 daddr ${address}`;
}

function dns(tunnel: string, policy: ExitPolicy): NftChain {
  const text = `iifname ${tunnel} meta l4proto { tcp, udp } th dport 53 redirect to :${policy.resolverPort}`;
  return {
    name: "dns",
    type: "nat",
    hook: "prerouting",
    priority: DSTNAT,
    policy: "accept",
    rules: [rule(text, "whichever resolver is asked")],
  };
}

function nat(tunnel: string, outlet: ExitOutlet): NftChain {
  // What is opened may be on another link; nothing else gets as far as here.
  const out = outlet.lan.length === 0 ? " oifname @uplink" : "";
  return {
    name: "nat",
    type: "nat",
    hook: "postrouting",
    priority: SRCNAT,
    policy: "accept",
    rules: [rule(`iifname ${tunnel}${out} masquerade`, "clients look like the node")],
  };
}

function rule(text: string, why: string): NftRule {
  return { text, why };
}
