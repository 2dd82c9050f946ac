// The rules of an exit as chains of iptables, a family at a time: what exitTable() asks of nft, with chains for its sets and xt_recent for its lease.
import { type Cidr, cidrParts, type Family, familyOf, type IpAddress } from "../../base/ip.ts";
import type { PortRange } from "../../proto/exit-terms.ts";
import { FORWARDED_MARK, type Identifiers } from "../identifiers.ts";
import { DENIED4, DENIED6, type ExitKept, type ExitPolicy, LEASE_S, NEVER4, NEVER6, prefixIn } from "./exit.ts";
import { checkedInterface } from "./checked-interface.ts";
import type { ChainsOf } from "./iptables.ts";
import type { IptablesChain, IptablesRule, IptablesTable, SavedTables } from "./iptables-chains.ts";
import { leaseRules, type LeaseWords, leaseWords, maskedMark } from "./iptables-lease.ts";
import { mergedRanges } from "./merged-ranges.ts";
import { intervalElements } from "./nft-table.ts";

export interface ExitChainsWanted {
  readonly policy: ExitPolicy;
  readonly identifiers: Pick<Identifiers, "chainPrefix">;
}

type Rules = readonly IptablesRule[];

/**
 * RETURN of a chain that the kernel leads to is what "accept" and "return" are to nft: the host's own rules, which come after, still may
 * drop.
 */
export function exitChains(family: Family, { policy, identifiers }: ExitChainsWanted): readonly IptablesChain[] {
  const prefix = identifiers.chainPrefix;
  const tunnel = checkedInterface(policy.interface);
  const words = wordsOf(family, prefix);
  const lease = leaseWords({ family, prefix, leaseS: policy.leaseS });
  const chain = (
    table: IptablesTable,
    name: string,
    rules: Rules,
    hook: IptablesChain["hook"] = null,
  ): IptablesChain => ({
    table,
    name: `${prefix}${name}`,
    hook,
    rules,
  });
  const of = <T extends Cidr | IpAddress>(all: readonly T[]): readonly T[] =>
    all.filter((one) => familyOf(one) === family);
  const fence = (family === 4 ? policy.fence4 : policy.fence6).filter((one) => one !== tunnel).map(checkedInterface);
  const refused = (all: readonly Cidr[], why: string): Rules =>
    intervalElements(all).map((prefixText) => words.reject(`-d ${prefixText}`, why));
  return [
    chain("filter", "forward", forward({ tunnel, words, lease, policy, family }), "FORWARD"),
    chain("filter", "input", input({ tunnel, words, lease, policy, family }), "INPUT"),
    chain(
      "filter",
      "fence",
      unique(fence).map((one) => words.to("fence-out", `-i ${one}`, "no router for its neighbours")),
    ),
    chain(
      "filter",
      "fence-out",
      unique(fence).map((one) => words.drop(`-o ${one} -m conntrack ! --ctstate DNAT`, "no router for its neighbours")),
    ),
    chain("filter", "clients", [
      ...unique(of(family === 4 ? policy.clients4 : policy.clients6)).map((one) => words.pass(`-s ${one}`, "a client")),
      words.drop("", "no other source"),
    ]),
    chain("filter", "uplink", [
      ...unique(policy.uplinks.map(checkedInterface)).map((one) => words.pass(`-o ${one}`, "the internet")),
      words.drop("", "only the internet"),
    ]),
    chain("filter", "never", refused(family === 4 ? NEVER4 : NEVER6, "never, whatever is open")),
    chain("filter", "closed", refused(of(policy.outlet.closed), "closed by the owner")),
    chain("filter", "deny", refused(family === 4 ? DENIED4 : DENIED6, "no public address")),
    chain("filter", "here", refused(family === 4 ? policy.here4 : policy.here6, "the place of the node")),
    ...(policy.outlet.ports === null
      ? []
      : PROTOCOLS.map((protocol) => chain("filter", protocol, onlyPorts(policy.outlet.ports ?? [], protocol, words)))),
    chain("mangle", "lease", leaseRules(family, prefix), "OUTPUT"),
    chain(
      "nat",
      "dns",
      PROTOCOLS.map((protocol) => ({
        match: `-i ${tunnel} -p ${protocol} --dport 53`,
        target: `REDIRECT --to-ports ${policy.resolverPort}`,
        why: "whichever resolver is asked",
      })),
      "PREROUTING",
    ),
    chain(
      "nat",
      "masquerade",
      [{ match: `-m mark --mark ${FORWARDED}`, target: "MASQUERADE", why: "clients look like the node" }],
      "POSTROUTING",
    ),
  ];
}

const PROTOCOLS = ["tcp", "udp"] as const;

/** With every match and target that a policy can ask for, in chains that nothing leads to, and a list that is no lease. */
export function exitTrial(identifiers: ExitChainsWanted["identifiers"]): ChainsOf {
  const chainPrefix = `${identifiers.chainPrefix}trial-`;
  return (family) =>
    exitChains(family, { policy: TRIAL, identifiers: { ...identifiers, chainPrefix } }).map((chain) => ({
      ...chain,
      hook: null,
    }));
}

const TRIAL: ExitPolicy = {
  interface: "lo",
  uplinks: ["lo"],
  clients4: [],
  clients6: [],
  addresses: [],
  here4: [],
  here6: [],
  fence4: ["eth0"],
  fence6: ["eth0"],
  outlet: { ports: [{ protocol: "tcp", first: 80, last: 443 }], mail: false, closed: [], lan: [] },
  resolverPort: 53,
  leaseS: LEASE_S,
  open: false,
};

/** Null where there is nothing of the role. */
export function keptIn(saved: SavedTables, prefix: string): ExitKept | null {
  const filter = saved.get("filter");
  const clients = filter?.get(`${prefix}clients`);
  if (clients === undefined) return null;
  const prefixes = (rules: readonly string[], flag: "-s" | "-d"): readonly Cidr[] =>
    rules.flatMap((line) => prefixIn(new RegExp(` ${flag} (\\S+)`).exec(line)?.[1] ?? "") ?? []);
  const addresses = prefixes(clients, "-s").map((one) => cidrParts(one).address);
  return {
    clients4: addresses.filter((one) => familyOf(one) === 4),
    clients6: addresses.filter((one) => familyOf(one) === 6),
    here: prefixes(filter?.get(`${prefix}here`) ?? [], "-d"),
  };
}

interface Place {
  readonly tunnel: string;
  readonly words: Words;
  readonly lease: LeaseWords;
  readonly policy: ExitPolicy;
  readonly family: Family;
}

function forward({ tunnel, words, lease, policy, family }: Place): Rules {
  const { drop, pass, reject, to } = words;
  const { outlet } = policy;
  return [
    to("fence", "", "no router for its neighbours"),
    pass(`! -i ${tunnel} ! -o ${tunnel}`, "not of the tunnel"),
    drop(`-i ${tunnel} -o ${tunnel}`, "no client reaches another"),
    drop(`-o ${tunnel} ${lease.dead}`, "closed without a lease"),
    clamp(`-o ${tunnel} `, "segments that fit the tunnel"),
    pass(`-o ${tunnel} ${ANSWERS}`, "answers to clients"),
    drop(`-o ${tunnel}`, "nothing else reaches a client"),
    drop(lease.dead, "closed without a lease"),
    to("clients", "", "no other source"),
    drop("-m conntrack --ctstate INVALID", "no flow of ours"),
    clamp("", "segments that fit the way out"),
    // What is let out of here leaves as the node: iptables cannot ask in POSTROUTING where a packet came in.
    { match: "", target: `MARK --set-xmark ${FORWARDED}`, why: "of a client" },
    to("never", "", "never, whatever is open"),
    to("closed", "", "closed by the owner"),
    ...outlet.lan
      .filter(({ prefix }) => familyOf(prefix) === family)
      .flatMap(({ prefix, sources }) =>
        (sources === null ? [""] : sources.map((one) => `-s ${one} `)).map((from) =>
          pass(`${from}-d ${prefix}`, "opened by the owner"),
        ),
      ),
    to("uplink", "", "only the internet"),
    to("deny", "", "no public address"),
    to("here", "", "the place of the node"),
    ...(outlet.mail ? [] : [reject("-p tcp --dport 25", "no mail from strangers")]),
    ...(outlet.ports === null ? [] : PROTOCOLS.map((protocol) => to(protocol, `-p ${protocol}`, "only these ports"))),
  ];
}

function input({ tunnel, words, lease, policy, family }: Place): Rules {
  const { drop, pass, to } = words;
  const echo = family === 4 ? "-p icmp --icmp-type echo-request" : "-p icmpv6 --icmpv6-type echo-request";
  return [
    pass("-i lo", "the machine itself"),
    ...policy.addresses
      .filter((address) => familyOf(address) === family)
      .map((address) => drop(`! -i ${tunnel} -d ${address}`, "tunnel address by the tunnel only")),
    pass(`! -i ${tunnel}`, "not of the tunnel"),
    pass(ANSWERS, "answers to the node"),
    to("clients", "", "no other source"),
    ...PROTOCOLS.map((protocol) =>
      pass(
        `-p ${protocol} --dport ${policy.resolverPort} -m conntrack --ctstate DNAT ${lease.alive}`,
        "DNS that was brought here",
      ),
    ),
    pass(`${echo} -m limit --limit 10/second --limit-burst 5`, "ping"),
    drop("", "nothing else of the node"),
  ];
}

/** Echo requests and other protocols are no ports, and pass. */
function onlyPorts(ports: readonly PortRange[], protocol: PortRange["protocol"], words: Words): Rules {
  const ranges = mergedRanges(ports.filter((range) => range.protocol === protocol));
  return [
    ...ranges.map(({ first, last }) => words.pass(`-p ${protocol} --dport ${first}:${last}`, "this port")),
    words.reject("", "only these ports"),
  ];
}

type Say = (match: string, why: string) => IptablesRule;

interface Words {
  readonly drop: Say;
  readonly pass: Say;
  readonly reject: Say;
  readonly to: (chain: string, match: string, why: string) => IptablesRule;
}

function wordsOf(family: Family, prefix: string): Words {
  const say =
    (target: string): Say =>
    (match, why) => ({ match, target, why });
  return {
    drop: say("DROP"),
    pass: say("RETURN"),
    reject: say(`REJECT --reject-with ${family === 4 ? "icmp-admin-prohibited" : "icmp6-adm-prohibited"}`),
    to: (chain, match, why) => say(`${prefix}${chain}`)(match, why),
  };
}

/** As nft's `rt mtu`: the smaller of the ways there and back, and never more than was asked for. */
function clamp(match: string, why: string): IptablesRule {
  return { match: `${match}-p tcp --tcp-flags SYN,RST SYN`, target: "TCPMSS --clamp-mss-to-pmtu", why };
}

const ANSWERS = "-m conntrack --ctstate ESTABLISHED,RELATED";

const FORWARDED = maskedMark(FORWARDED_MARK);

function unique<T>(all: readonly T[]): readonly T[] {
  return [...new Set(all)];
}
