// The rules of a client's firewall as chains of iptables, of one family: what its nft table says, in the same order, pure.
//
// What may pass goes back to where the kernel came from (RETURN), so that other programs' rules have their say too, as they have beside
// an nft table. What WireGuard's and discovery's messages look like is told by u32, whose bytes count from the start of the IP header:
// an IPv4 header says its length itself ("0>>22&0x3C@"), and before a UDP header of IPv6 there are 40.
import { type Endpoint, type Family, familyOf, type IpAddress } from "../../base/ip.ts";
import type { Identifiers } from "../identifiers.ts";
import { LAN_ALWAYS, PRIVATE4 } from "../local-networks.ts";
import type { ClientFirewallPolicy, Nearby, OwnTraffic, TunnelEnd } from "./client.ts";
import type { Mark } from "./client-marks.ts";
import { checkedInterface } from "./checked-interface.ts";
import type { IptablesChain, IptablesRule } from "./iptables-chains.ts";
import { intervalElements } from "./nft-table.ts";

type Names = Mark & Pick<Identifiers, "chainPrefix">;

/** None where nothing of ours is wanted. What closes comes first. Throws FirewallNameRefused for a name that is no interface's. */
export function clientChains(policy: ClientFirewallPolicy, family: Family, names: Names): readonly IptablesChain[] {
  const of = (passing: Passing | null, near: Nearby): readonly IptablesChain[] => [
    chain(names, "filter", "OUTPUT", output({ family, near, passing })),
    chain(names, "filter", "INPUT", input({ family, near, passing })),
    chain(names, "filter", "FORWARD", forward({ family, near, passing })),
  ];
  switch (policy.kind) {
    case "disconnected":
      return [];
    case "exitless":
      return markChains(policy, family, names);
    case "connecting":
    case "connected": {
      const { own, tunnel, near } = policy;
      return [...of({ own, tunnel, mark: names }, near), ...markChains(policy, family, names)];
    }
    case "disconnecting":
    case "blocked":
      return of(null, policy.near);
  }
}

/** Every match and target of theirs, in chains that nothing leads to. */
export function clientTrial(family: Family, names: Names): readonly IptablesChain[] {
  const one = (four: string, six: string) => (family === 4 ? four : six) as IpAddress;
  const policy: ClientFirewallPolicy = {
    kind: "connected",
    tunnel: { interface: "higgs0", addresses: [one("10.0.0.1", "fd00::1")] },
    own: {
      uid: 0,
      carrier: [{ address: one("192.0.2.1", "2001:db8::1"), port: 443 }],
      wireGuardPort: 51_820,
      discoveryPort: 51_821,
      routers: ["192.168.0.1" as IpAddress],
    },
    near: { bridges: ["docker0"], lan: LAN_ALWAYS },
  };
  const named = (name: string): string => name.replace(names.chainPrefix, `${names.chainPrefix}try-`);
  return clientChains(policy, family, names).map((chain) => ({ ...chain, name: named(chain.name), hook: null }));
}

/** What may pass beside what is near; null: nothing. */
interface Passing {
  readonly own: OwnTraffic;
  readonly tunnel: TunnelEnd;
  readonly mark: Mark;
}

interface Situation {
  readonly family: Family;
  readonly near: Nearby;
  readonly passing: Passing | null;
}

const HOOK_NAMES = { OUTPUT: "out", INPUT: "in", FORWARD: "fwd", PREROUTING: "pre" } as const;

function chain(
  { chainPrefix }: Names,
  table: "filter" | "mangle",
  hook: keyof typeof HOOK_NAMES,
  rules: readonly IptablesRule[],
): IptablesChain {
  const name = `${chainPrefix}${table === "mangle" ? "mark-" : ""}${HOOK_NAMES[hook]}`;
  return { table, name, hook, rules };
}

/** No "established" here: a connection from before is cut. */
function output({ family, near, passing }: Situation): readonly IptablesRule[] {
  return [
    ...(passing === null ? [] : ownOut(passing, family)),
    pass("-o lo", "this machine itself"),
    ...(family === 4 ? DHCP_OUT : NEIGHBOURS_OUT),
    ...bridgeNames(near).map((name) => pass(`-o ${name}`, "containers and virtual machines")),
    ...(passing === null ? [] : [pass(`-o ${checkedInterface(passing.tunnel.interface)}`, "the tunnel")]),
    ...noDns(family),
    ...lanRules(near, family, "-d"),
    ...(near.lan === null || family === 6 ? [] : [pass("-p igmp", "multicast of the LAN")]),
    refuse(family),
  ];
}

/**
 * WireGuard and discovery by their mark, which no lesser user can set, and by the look of the message, so that an application that
 * has set our mark gets nothing out. Their ports are many: a path may use one of its own.
 */
function ownOut({ own, mark }: Passing, family: Family): readonly IptablesRule[] {
  const ours = isMarked(mark);
  return [
    pass(`-p udp ${ours} ${wireGuard(family)}`, "WireGuard"),
    pass(`-p udp ${ours} ${stun(family)}`, "discovery"),
    ...carrierMatches(own, family).map((match) => pass(match, "carrier")),
    ...routersOf(own, family).map((router) =>
      pass(`-d ${router}/32 -p udp -m multiport --dports 1900,5351 ${ours}`, "asking the router for a port"),
    ),
    ...(routersOf(own, family).length === 0
      ? []
      : [pass(`-d 239.255.255.250/32 -p udp --dport 1900 ${ours}`, "looking for the router")]),
  ];
}

function input({ family, near, passing }: Situation): readonly IptablesRule[] {
  const port = passing?.own.wireGuardPort ?? 0;
  return [
    pass("-i lo", "this machine itself"),
    ...(passing === null
      ? []
      : [
          pass(`-p udp --dport ${port} ${wireGuard(family)}`, "WireGuard, which knows its peers"),
          pass(`-p udp --dport ${port} ${stun(family)}`, "discovery, which knows its keys"),
          ...routersOf(passing.own, family).map((router) =>
            // It answers a search of many from its own address, which connection tracking does not see as an answer.
            pass(`-s ${router}/32 -p udp --sport 1900`, "the router was found"),
          ),
        ]),
    ...(family === 4 ? [pass("-p udp --sport 67 --dport 68", "DHCP")] : NEIGHBOURS_IN),
    ...bridgeNames(near).map((name) => pass(`-i ${name}`, "containers and virtual machines")),
    ...(passing === null ? [] : [pass(`-i ${checkedInterface(passing.tunnel.interface)}`, "the tunnel")]),
    ...lanRules(near, family, "-s"),
    pass(ANSWERS, "answers to what may leave"),
    { match: "", target: "DROP", why: "nothing else" },
  ];
}

/** What containers and virtual machines send, and whoever else this machine forwards for. */
function forward({ family, near, passing }: Situation): readonly IptablesRule[] {
  const bridges = bridgeNames(near);
  const tunnel = passing === null ? null : checkedInterface(passing.tunnel.interface);
  return [
    ...bridges.flatMap((from) => bridges.map((to) => pass(`-i ${from} -o ${to}`, "containers and virtual machines"))),
    ...(tunnel === null
      ? []
      : [pass(`-o ${tunnel}`, "the tunnel"), pass(`-i ${tunnel} ${ANSWERS}`, "the tunnel's answers")]),
    ...noDns(family),
    ...lanRules(near, family, "-d"),
    ...lanRules(near, family, "-s"),
    refuse(family),
  ];
}

/**
 * What goes past the tunnel is told by its mark, which is kept with the flow and put on its answers: a strict reverse path filter looks
 * the way back up by mark. After connection tracking (-200), and before routing looks again.
 */
function markChains(
  { own, tunnel }: { readonly own: OwnTraffic; readonly tunnel: TunnelEnd },
  family: Family,
  names: Names,
): readonly IptablesChain[] {
  const setMark = `MARK --set-xmark ${bits(names)}`;
  const out: readonly IptablesRule[] = [
    ...carrierMatches(own, family).map((match) => ({ match, target: setMark, why: "carrier" })),
    ...(own.discoveryPort === undefined
      ? []
      : [{ match: `-p udp --sport ${own.discoveryPort} ${ofUser(own.uid)}`, target: setMark, why: "discovery" }]),
    { match: isMarked(names), target: `CONNMARK --set-xmark ${bits(names)}`, why: "past the tunnel" },
  ];
  const pre: readonly IptablesRule[] = [
    pass(`-i ${checkedInterface(tunnel.interface)}`, "the tunnel"),
    { match: `-m connmark --mark ${bits(names)}`, target: setMark, why: "answers past the tunnel" },
    pass("-i lo", "this machine itself"),
    ...tunnel.addresses
      .filter((address) => familyOf(address) === family)
      .map((address) => ({
        match: `-d ${address}/${family === 4 ? 32 : 128}`,
        target: "DROP",
        why: "tunnel address by the tunnel only",
      })),
  ];
  return [chain(names, "mangle", "OUTPUT", out), chain(names, "mangle", "PREROUTING", pre)];
}

function bits({ mark, markMask }: Mark): string {
  return `0x${mark.toString(16)}/0x${markMask.toString(16)}`;
}

/** Whatever bits others have set. */
function isMarked(mark: Mark): string {
  return `-m mark --mark ${bits(mark)}`;
}

function ofUser(uid: number): string {
  return `-m owner --uid-owner ${uid}`;
}

/** The carrier's TCP to one server or proxy: by user, address and port. */
function carrierMatches({ carrier, uid }: OwnTraffic, family: Family): readonly string[] {
  const ofFamily = ({ address }: Endpoint): boolean => familyOf(address) === family;
  return carrier
    .filter(ofFamily)
    .map(({ address, port }) => `-d ${address}/${family === 4 ? 32 : 128} -p tcp --dport ${port} ${ofUser(uid)}`);
}

function routersOf({ routers }: OwnTraffic, family: Family): readonly IpAddress[] {
  return family === 6 ? [] : [...new Set(routers.filter((router) => familyOf(router) === 4))].sort();
}

/** Not of a later fragment, in which the same bytes are somebody's data; IPv6 says that it is UDP at once. */
const BEFORE_PAYLOAD = { 4: "4&0x1FFF=0", 6: "4>>8&0xFF=17" } as const;

/** The four messages of WireGuard (its paper, section 5.4): a type, and three zero bytes. */
function wireGuard(family: Family): string {
  return `-m u32 --u32 "${BEFORE_PAYLOAD[family]}&&${payload(family, 0)}=0x01000000,0x02000000,0x03000000,0x04000000"`;
}

/** Binding request, indication, success and error, and the cookie (RFC 8489, section 5). */
function stun(family: Family): string {
  const type = `${payload(family, 0)}>>16=0x0001,0x0011,0x0101,0x0111`;
  return `-m u32 --u32 "${BEFORE_PAYLOAD[family]}&&${type}&&${payload(family, 4)}=0x2112A442"`;
}

/** Where u32 finds four bytes of the UDP payload. */
function payload(family: Family, at: number): string {
  return family === 4 ? `0>>22&0x3C@${8 + at}` : String(40 + 8 + at);
}

const ANSWERS = "-m conntrack --ctstate ESTABLISHED,RELATED";

const DHCP_OUT: readonly IptablesRule[] = [
  pass("-d 255.255.255.255/32 -p udp --sport 68 --dport 67", "DHCP"),
  ...PRIVATE4.map((prefix) => pass(`-d ${prefix} -p udp --sport 68 --dport 67`, "a lease is kept")),
];

const NEIGHBOURS_OUT: readonly IptablesRule[] = [
  ...["ff02::1:2", "ff05::1:3"].map((servers) =>
    pass(`-s fe80::/10 -d ${servers}/128 -p udp --sport 546 --dport 547`, "DHCP for IPv6"),
  ),
  // Router solicitation, neighbour solicitation and advertisement (RFC 4861), and the report of RFC 3810.
  ...[133, 135, 136].map((type) => pass(neighbour(type, 255), "neighbours")),
  pass(neighbour(143, 1), "multicast of neighbours"),
];

const NEIGHBOURS_IN: readonly IptablesRule[] = [
  pass("-s fe80::/10 -p udp --sport 547 --dport 546", "DHCP for IPv6"),
  ...[134, 135, 136].map((type) => pass(neighbour(type, 255), "neighbours")),
  pass(neighbour(130, 1), "multicast of neighbours"),
];

/** A hop limit that no router has lowered, or that none would pass on. */
function neighbour(type: number, hopLimit: number): string {
  return `-p icmpv6 --icmpv6-type ${type} -m hl --hl-eq ${hopLimit}`;
}

/** Once the tunnel has had its turn: a LAN that is allowed answers no names, or it would learn them all. */
function noDns(family: Family): readonly IptablesRule[] {
  const unreachable = family === 4 ? "icmp-port-unreachable" : "icmp6-port-unreachable";
  const why = "names by the tunnel only";
  return [
    { match: "-p udp -m multiport --dports 53,853", target: `REJECT --reject-with ${unreachable}`, why },
    { match: "-p tcp -m multiport --dports 53,853", target: "REJECT --reject-with tcp-reset", why },
  ];
}

function lanRules({ lan }: Nearby, family: Family, side: "-s" | "-d"): readonly IptablesRule[] {
  const prefixes = [...(lan ?? [])].filter((prefix) => familyOf(prefix) === family).sort();
  return intervalElements(prefixes).map((prefix) => pass(`${side} ${prefix}`, "the LAN is allowed"));
}

function bridgeNames({ bridges }: Nearby): readonly string[] {
  return [...new Set(bridges)].sort().map(checkedInterface);
}

function refuse(family: Family): IptablesRule {
  const how = family === 4 ? "icmp-admin-prohibited" : "icmp6-adm-prohibited";
  return { match: "", target: `REJECT --reject-with ${how}`, why: "nothing else" };
}

function pass(match: string, why: string): IptablesRule {
  return { match, target: "RETURN", why };
}
