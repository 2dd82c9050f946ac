// The rules of a client's egress chains: what may leave an interface at all, frames that bypass the IP layer among it.
import { type Cidr, type Endpoint, familyOf } from "../../base/ip.ts";
import { STUN_COOKIE, STUN_TYPES } from "../discovery/demux-table.ts";
import type { ClientFirewallWanted, Nearby, OwnTraffic } from "./client.ts";
import { isMarked, type Mark } from "./client-marks.ts";
import { routerOut, WIREGUARD } from "./client-table.ts";
import { intervalElements, type NftChain, type NftRule, type NftTable } from "./nft-table.ts";

/** Null where nobody asked for it, and where the machine is open. */
export function egressTable(name: string, { policy, egress }: ClientFirewallWanted, mark: Mark): NftTable | null {
  if (egress.length === 0 || policy.kind === "disconnected" || policy.kind === "exitless") return null;
  const own = policy.kind === "connecting" || policy.kind === "connected" ? policy.own : null;
  const rules = [...(own === null ? [] : ownRules(own, mark)), ...NEIGHBOURS, ...lanRules(policy.near)];
  const devices = [...new Set(egress)].sort();
  return { family: "netdev", name, sets: [], chains: devices.map((device) => chain(device, rules)) };
}

function chain(device: string, rules: readonly NftRule[]): NftChain {
  // nft takes fewer characters for a chain than the kernel for an interface.
  const name = `out_${new TextEncoder().encode(device).toHex()}`;
  return { name, type: "filter", hook: "egress", device, priority: 0, policy: "drop", rules };
}

/** No socket is known here any more; everything of ours was marked on its way out. */
function ownRules(own: OwnTraffic, mark: Mark): readonly NftRule[] {
  const ours = isMarked(mark);
  return [
    rule(`${ours} meta l4proto udp ${WIREGUARD} accept`, "WireGuard"),
    rule(`${ours} meta l4proto udp @th,64,16 ${STUN_TYPES} ${STUN_COOKIE} accept`, "discovery"),
    ...own.carrier.map((endpoint) => rule(`${ours} ${to(endpoint)} accept`, "carrier")),
    ...routerOut(own, ours),
  ];
}

const NEIGHBOURS: readonly NftRule[] = [
  { text: "meta protocol arp accept", why: "neighbours" },
  { text: "meta protocol 0x888e accept", why: "signing in to the network (802.1X)" },
  { text: "udp sport 68 udp dport 67 accept", why: "DHCP" },
  { text: "ip6 saddr fe80::/10 udp sport 546 udp dport 547 accept", why: "DHCP for IPv6" },
  {
    text: "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
    why: "neighbours",
  },
  { text: "icmpv6 type mld2-listener-report ip6 hoplimit 1 accept", why: "multicast of neighbours" },
];

function lanRules({ lan }: Nearby): readonly NftRule[] {
  if (lan === null) return [];
  const rules: NftRule[] = [
    rule("meta l4proto { tcp, udp } th dport { 53, 853 } drop", "names by the tunnel only"),
    rule("ip protocol igmp accept", "multicast of the LAN"),
  ];
  for (const family of [4, 6] as const) {
    const prefixes: readonly Cidr[] = [...lan].filter((prefix) => familyOf(prefix) === family).sort();
    const elements = intervalElements(prefixes).join(", ");
    if (elements === "") continue;
    rules.push(rule(`${family === 4 ? "ip" : "ip6"} daddr { ${elements} } accept`, "the LAN is allowed"));
  }
  return rules;
}

function to({ address, port }: Endpoint): string {
  return `${familyOf(address) === 4 ? "ip" : "ip6"} daddr ${address} tcp dport ${port}`;
}

function rule(text: string, why: string): NftRule {
  return { text, why };
}
