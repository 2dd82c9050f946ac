// The rules of a client's firewall: one table for each situation, pure.
import { type Cidr, familyOf, type IpAddress } from "../../base/ip.ts";
import { PRIVATE4 } from "../local-networks.ts";
import { STUN_COOKIE, STUN_TYPES } from "../discovery/demux-table.ts";
import type { ClientFirewallPolicy, Nearby, OwnTraffic, TunnelEnd } from "./client.ts";
import { carrierMatch, isMarked, type Mark, markChains } from "./client-marks.ts";
import {
  intervalElements,
  type NftChain,
  type NftRule,
  type NftSet,
  type NftTable,
  quotedInterface,
} from "./nft-table.ts";

/** The four messages of WireGuard (its paper, section 5.4): a type, and three zero bytes. */
export const WIREGUARD = "@th,64,32 { 0x01000000, 0x02000000, 0x03000000, 0x04000000 }";
const STUN = `@th,64,16 ${STUN_TYPES} ${STUN_COOKIE}`;
const ANSWERS = "ct state established,related accept";
const REFUSE = "reject with icmpx admin-prohibited";

/** Null for no table at all: the machine is open. Throws FirewallNameRefused for a name that is no interface's. */
export function rulesetFor(name: string, policy: ClientFirewallPolicy, mark: Mark): NftTable | null {
  switch (policy.kind) {
    case "disconnected":
      return null;
    case "exitless":
      return { name, sets: [], chains: markChains(policy.own, policy.tunnel, mark) };
    case "connecting":
    case "connected": {
      const { own, tunnel, near } = policy;
      return {
        name,
        sets: nearSets(near),
        chains: [...markChains(own, tunnel, mark), ...filterChains(near, { own, tunnel, mark })],
      };
    }
    case "disconnecting":
    case "blocked":
      return { name, sets: nearSets(policy.near), chains: filterChains(policy.near, null) };
  }
}

/** What may pass beside what is near; null: nothing. */
interface Passing {
  readonly own: OwnTraffic;
  readonly tunnel: TunnelEnd;
  readonly mark: Mark;
}

function nearSets({ bridges, lan }: Nearby): readonly NftSet[] {
  const sets: NftSet[] = [];
  if (bridges.length > 0) {
    const elements = [...new Set(bridges)].sort().map(quotedInterface);
    sets.push({ name: "bridges", type: "ifname", flags: [], elements });
  }
  for (const family of familiesOf(lan)) {
    const prefixes = [...(lan ?? [])].filter((prefix) => familyOf(prefix) === family).sort();
    const type = family === 4 ? "ipv4_addr" : "ipv6_addr";
    sets.push({ name: `lan${family}`, type, flags: ["interval"], elements: intervalElements(prefixes) });
  }
  return sets;
}

function familiesOf(lan: readonly Cidr[] | null): readonly (4 | 6)[] {
  return ([4, 6] as const).filter((family) => (lan ?? []).some((prefix) => familyOf(prefix) === family));
}

function filterChains(near: Nearby, passing: Passing | null): readonly NftChain[] {
  return [output(near, passing), input(near, passing), forward(near, passing)];
}

/** No "established" here: a connection from before is cut. */
function output(near: Nearby, passing: Passing | null): NftChain {
  return filter("output", [
    // First, as what is diverted from loopback to a better path still counts as loopback's.
    ...(passing === null ? [] : ownOut(passing)),
    rule('oifname "lo" accept', "this machine itself"),
    rule("udp sport 68 udp dport 67 ip daddr 255.255.255.255 accept", "DHCP"),
    rule(`udp sport 68 udp dport 67 ip daddr { ${PRIVATE4.join(", ")} } accept`, "a lease is kept"),
    rule("ip6 saddr fe80::/10 udp sport 546 udp dport 547 ip6 daddr { ff02::1:2, ff05::1:3 } accept", "DHCP for IPv6"),
    rule(
      "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
      "neighbours",
    ),
    rule("icmpv6 type mld2-listener-report ip6 hoplimit 1 accept", "multicast of neighbours"),
    ...(near.bridges.length === 0 ? [] : [rule("oifname @bridges accept", "containers and virtual machines")]),
    ...(passing === null ? [] : [rule(`oifname ${quotedInterface(passing.tunnel.interface)} accept`, "the tunnel")]),
    ...NO_DNS,
    ...lanRules(near, "daddr"),
    ...(near.lan === null ? [] : [rule("ip protocol igmp accept", "multicast of the LAN")]),
    rule(REFUSE, "nothing else"),
  ]);
}

/**
 * WireGuard and discovery by their mark, which no lesser user can set, and by the look of the message, so that an application that
 * has set our mark gets nothing out. Their ports are many: a path may use one of its own.
 */
function ownOut({ own, mark }: Passing): readonly NftRule[] {
  const ours = isMarked(mark);
  return [
    rule(`${ours} meta l4proto udp ${WIREGUARD} accept`, "WireGuard"),
    rule(`${ours} meta l4proto udp ${STUN} accept`, "discovery"),
    ...own.carrier.map((endpoint) => rule(`${carrierMatch(own.uid, endpoint)} accept`, "carrier")),
    ...routerOut(own, ours),
  ];
}

/** PCP and NAT-PMP (RFC 6887, section 19.2), and UPnP's search for a router; its TCP comes as a carrier. */
export function routerOut({ routers }: OwnTraffic, ours: string): readonly NftRule[] {
  if (routersOf(routers) === "") return [];
  return [
    rule(`${ours} ip daddr { ${routersOf(routers)} } udp dport { 1900, 5351 } accept`, "asking the router for a port"),
    rule(`${ours} ip daddr 239.255.255.250 udp dport 1900 accept`, "looking for the router"),
  ];
}

function routersOf(routers: readonly IpAddress[]): string {
  return [...new Set(routers.filter((router) => familyOf(router) === 4))].sort().join(", ");
}

/** Once the tunnel has had its turn: a LAN that is allowed answers no names, or it would learn them all. */
const NO_DNS: readonly NftRule[] = [
  { text: "meta l4proto udp th dport { 53, 853 } reject with icmpx port-unreachable", why: "names by the tunnel only" },
  { text: "meta l4proto tcp th dport { 53, 853 } reject with tcp reset", why: "names by the tunnel only" },
];

function lanRules(near: Nearby, side: "saddr" | "daddr"): readonly NftRule[] {
  return familiesOf(near.lan).map((family) =>
    rule(`${family === 4 ? "ip" : "ip6"} ${side} @lan${family} accept`, "the LAN is allowed"),
  );
}

function input(near: Nearby, passing: Passing | null): NftChain {
  return filter("input", [
    rule('iifname "lo" accept', "this machine itself"),
    ...(passing === null
      ? []
      : [
          rule(`udp dport ${passing.own.wireGuardPort} ${WIREGUARD} accept`, "WireGuard, which knows its peers"),
          rule(`udp dport ${passing.own.wireGuardPort} ${STUN} accept`, "discovery, which knows its keys"),
          ...routerIn(passing.own),
        ]),
    rule("udp sport 67 udp dport 68 accept", "DHCP"),
    rule("ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept", "DHCP for IPv6"),
    rule(
      "icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
      "neighbours",
    ),
    rule("icmpv6 type mld-listener-query ip6 hoplimit 1 accept", "multicast of neighbours"),
    ...(near.bridges.length === 0 ? [] : [rule("iifname @bridges accept", "containers and virtual machines")]),
    ...(passing === null ? [] : [rule(`iifname ${quotedInterface(passing.tunnel.interface)} accept`, "the tunnel")]),
    ...lanRules(near, "saddr"),
    rule(ANSWERS, "answers to what may leave"),
  ]);
}

/** It answers a search of many from its own address, which connection tracking does not see as an answer. */
function routerIn({ routers }: OwnTraffic): readonly NftRule[] {
  const all = routersOf(routers);
  return all === "" ? [] : [rule(`ip saddr { ${all} } udp sport 1900 accept`, "the router was found")];
}

/** What containers and virtual machines send, and whoever else this machine forwards for. */
function forward(near: Nearby, passing: Passing | null): NftChain {
  const tunnel = passing === null ? null : quotedInterface(passing.tunnel.interface);
  return filter("forward", [
    ...(near.bridges.length === 0
      ? []
      : [rule("iifname @bridges oifname @bridges accept", "containers and virtual machines")]),
    ...(tunnel === null
      ? []
      : [rule(`oifname ${tunnel} accept`, "the tunnel"), rule(`iifname ${tunnel} ${ANSWERS}`, "the tunnel's answers")]),
    ...NO_DNS,
    ...lanRules(near, "daddr"),
    ...lanRules(near, "saddr"),
    rule(REFUSE, "nothing else"),
  ]);
}

function filter(hook: "output" | "input" | "forward", rules: readonly NftRule[]): NftChain {
  return { name: hook, type: "filter", hook, priority: 0, policy: "drop", rules };
}

function rule(text: string, why: string): NftRule {
  return { text, why };
}
