// The UDP relay in the server's kernel: nft tables that let only leased WireGuard packets and STUN in, and turn the former round.
//
// Each end of a session sends to the server's port P; what comes from one end leaves for the other, as if P had sent it. STUN is not
// tracked, so that no NAT touches it: it reaches the server's own socket before, while and after a session is relayed. Whatever is
// permitted is an element with a timeout: a server that is gone leaves silence behind.
//
//   ports      P                      under the gate; its own timeout outlives the connections that conntrack may still know
//   lease      source . port . P      may pass, as long as this is renewed
//   relay_dst  source . port . P      the other end
//   relay_src  P                      the server's address . P
import { createHash } from "node:crypto";
import { z } from "zod";
import { type Endpoint, type Family, familyOf, formatEndpoint, type IpAddress, parseIp } from "../base/ip.ts";
import type { Exec } from "./exec.ts";
import { isMissing, loadRuleset, nftFailed } from "./firewall/nft.ts";
import { quotedInterface } from "./firewall/nft-table.ts";
import { removeEach } from "./remove-listed.ts";

/** Of the families ip and ip6. */
export const RELAY_TABLE = "higgs_relay";
/** Long enough for a server or an end to start anew without a gap. */
export const LEASE_S = 120;
/** The lease, and then longer than conntrack keeps a UDP connection that is silent (180 s and less, nf_conntrack-sysctl). */
const PORT_S = LEASE_S + 480;

export interface RelayPolicy {
  /** The server's own, at most one of each family; a family without one is not relayed in the kernel. */
  readonly addresses: readonly IpAddress[];
  /**
   * Interfaces between which IPv4 is forwarded for no other purpose: those there were when forwarding was switched on for the relay.
   * Empty where the machine forwards anyway.
   */
  readonly fence: readonly string[];
}

/** What arrives at `port` from one end goes to the other. Ends of two families are leased only: the packets reach the socket. */
export interface RelayLink {
  readonly port: number;
  readonly ends: readonly [Endpoint, Endpoint];
}

/** All in one transaction: removals first. */
export interface RelayChange {
  /** Under the gate from now on. */
  readonly open?: readonly number[];
  /** Under the gate for longer. */
  readonly keep?: readonly number[];
  readonly close?: readonly number[];
  readonly put?: readonly RelayLink[];
  readonly renew?: readonly RelayLink[];
  readonly remove?: readonly RelayLink[];
}

export interface RelayReading {
  readonly leases: readonly LeaseCount[];
  /** Packets that left again, since the table was made. */
  readonly passed: number;
}

/** What a lease let in since it was made or renewed: bytes of UDP payload, as the process counts its own. */
export interface LeaseCount {
  /** See `leaseKey`. */
  readonly key: string;
  readonly packets: number;
  readonly bytes: number;
}

export interface RelayTable {
  /** Resolves with ports that an earlier process has left under the gate: they must not be used before their time. */
  apply(policy: RelayPolicy, signal: AbortSignal): Promise<ReadonlySet<number>>;
  change(change: RelayChange, signal: AbortSignal): Promise<void>;
  read(signal: AbortSignal): Promise<RelayReading>;
  reset(signal: AbortSignal): Promise<void>;
}

export function leaseKey(port: number, end: Endpoint): string {
  return `${port} ${formatEndpoint(end)}`;
}

/** The rules of one family, without elements. */
export function relayRuleset(address: IpAddress, fence: readonly string[]): string {
  const ip = familyOf(address) === 4 ? "ip" : "ip6";
  const type = familyOf(address) === 4 ? "ipv4_addr" : "ipv6_addr";
  const lines = [
    `table ${ip} ${RELAY_TABLE} {`,
    ...block("  counter passed", []),
    ...block("  set ports", ["type inet_service", "flags timeout"]),
    ...block("  set lease", [`type ${type} . inet_service . inet_service`, "flags timeout", "counter"]),
    ...block("  map relay_dst", [
      `type ${type} . inet_service . inet_service : ${type} . inet_service`,
      "flags timeout",
    ]),
    ...block("  map relay_src", [`type inet_service : ${type} . inet_service`, "flags timeout"]),
  ];
  for (const { name, base, rules } of relayChains(address, fence)) {
    const texts = rules.map((text) => `${text} comment "${ruleHash(text)}"`);
    lines.push(...block(`  chain ${name}`, [base, "policy accept", ...texts]));
  }
  return `${[...lines, "}"].join("\n")}\n`;
}

interface Chain {
  readonly name: string;
  readonly base: string;
  readonly rules: readonly string[];
}

/** The magic cookie at bytes 4 to 7 of the payload; `@th` counts bits from the start of the UDP header, which has 64. */
const STUN = "@th,96,32 0x2112a442";
/** Binding request, indication, success and error (RFC 8489 section 5). */
const BINDING = "@th,64,16 { 0x0001, 0x0011, 0x0101, 0x0111 }";
/** The four messages of WireGuard: a type, and three bytes of zero. */
const WIREGUARD = "@th,64,32 { 0x01000000, 0x02000000, 0x03000000, 0x04000000 }";
const OURS = "meta l4proto udp ct status dnat ct original proto-dst @ports";

function relayChains(address: IpAddress, fence: readonly string[]): readonly Chain[] {
  const ip = familyOf(address) === 4 ? "ip" : "ip6";
  const source = `${ip} saddr . udp sport . udp dport`;
  const chains: Chain[] = [
    {
      name: "gate",
      base: "type filter hook prerouting priority -300", // before connection tracking
      rules: [
        `${ip} daddr != ${address} accept`,
        "meta l4proto != udp accept",
        "udp dport != @ports accept",
        `${STUN} ${BINDING} notrack accept`,
        `${source} @lease ${WIREGUARD} accept`,
        "drop",
      ],
    },
    {
      name: "gate_out",
      base: "type filter hook output priority -300",
      rules: [`udp sport @ports ${STUN} notrack`],
    },
    {
      name: "pre",
      base: "type nat hook prerouting priority -100",
      rules: [`dnat ${ip} addr . port to ${source} map @relay_dst`],
    },
    {
      name: "post",
      base: "type nat hook postrouting priority 100",
      rules: [`meta l4proto udp ct status dnat snat ${ip} addr . port to ct original proto-dst map @relay_src`],
    },
    {
      name: "watch", // after every filter: what is not counted here was swallowed on the way
      base: "type filter hook postrouting priority 150",
      rules: [`${OURS} counter name "passed"`],
    },
  ];
  if (fence.length > 0 && ip === "ip") {
    const among = `{ ${fence.map(quotedInterface).join(", ")} }`;
    chains.push({
      name: "fence",
      base: "type filter hook forward priority -5",
      rules: [`iifname != ${among} accept`, `oifname != ${among} accept`, `${OURS} accept`, "drop"],
    });
  }
  return chains;
}

function block(head: string, lines: readonly string[]): readonly string[] {
  return [`${head} {`, ...lines.map((line) => `    ${line}`), "  }"];
}

/** nft lists a rule otherwise than it was written; by this it is known again. */
function ruleHash(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 8);
}

/** One transaction, "" for none. Nothing depends on whether an element has run out: what is there is taken away and made anew. */
export function relayChangeText(addresses: readonly IpAddress[], change: RelayChange): string {
  const lines: string[] = [];
  for (const address of addresses) {
    const elements = elementsOf(address);
    const table = `${familyOf(address) === 4 ? "ip" : "ip6"} ${RELAY_TABLE}`;
    const say = (verb: "add" | "delete", set: string, found: readonly Element[]): void => {
      const texts = [...new Set(found.map((one) => (verb === "add" ? withTimeout(one) : withoutTimeout(one))))];
      if (texts.length > 0) lines.push(`${verb} element ${table} ${set} { ${texts.join(", ")} }`);
    };
    const close = (change.close ?? []).map(elements.port);
    say("add", "ports", close);
    say("delete", "ports", close);
    for (const set of SETS) {
      const gone = (change.remove ?? []).flatMap(elements[set]);
      say("add", set, gone);
      say("delete", set, gone);
    }
    const links = [...(change.put ?? []), ...(change.renew ?? [])];
    const kept = [...(change.open ?? []), ...(change.keep ?? []), ...links.map((link) => link.port)];
    const ports = kept.map(elements.port);
    for (const verb of RENEWAL) say(verb, "ports", ports);
    for (const set of SETS) {
      const there = links.flatMap(elements[set]);
      for (const verb of RENEWAL) say(verb, set, there);
    }
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

const SETS = ["relay_src", "relay_dst", "lease"] as const;
const RENEWAL = ["add", "delete", "add"] as const;

interface Element {
  readonly key: string;
  readonly timeoutS: number;
  readonly value?: string;
}

function withTimeout({ key, timeoutS, value }: Element): string {
  return `${key} timeout ${timeoutS}s${value === undefined ? "" : ` : ${value}`}`;
}

function withoutTimeout({ key, value }: Element): string {
  return `${key}${value === undefined ? "" : ` : ${value}`}`;
}

function elementsOf(address: IpAddress) {
  const family = familyOf(address);
  const isHere = (end: Endpoint): boolean => familyOf(end.address) === family;
  const source = (end: Endpoint, port: number): string => `${end.address} . ${end.port} . ${port}`;
  return {
    port: (port: number): Element => ({ key: String(port), timeoutS: PORT_S }),
    lease: ({ ends, port }: RelayLink): Element[] =>
      ends.filter(isHere).map((end) => ({ key: source(end, port), timeoutS: LEASE_S })),
    relay_dst: ({ ends, port }: RelayLink): Element[] => {
      if (!ends.every(isHere)) return [];
      const [a, b] = ends;
      return [
        { key: source(a, port), timeoutS: LEASE_S, value: `${b.address} . ${b.port}` },
        { key: source(b, port), timeoutS: LEASE_S, value: `${a.address} . ${a.port}` },
      ];
    },
    relay_src: ({ ends, port }: RelayLink): Element[] =>
      ends.every(isHere) ? [{ key: String(port), timeoutS: LEASE_S, value: `${address} . ${port}` }] : [],
  };
}

/** Changes are the caller's to serialise. */
export function nftRelayTable(deps: { readonly exec: Exec }): RelayTable {
  return new NftRelayTable(deps.exec);
}

class NftRelayTable implements RelayTable {
  readonly #exec: Exec;
  #addresses: readonly IpAddress[] = [];

  constructor(exec: Exec) {
    this.#exec = exec;
  }

  async apply(policy: RelayPolicy, signal: AbortSignal): Promise<ReadonlySet<number>> {
    const texts: string[] = [];
    const left = new Set<number>();
    for (const family of [4, 6] as const) {
      const name = `${tableFamily(family)} ${RELAY_TABLE}`;
      const address = policy.addresses.find((one) => familyOf(one) === family);
      if (address === undefined) {
        texts.push(`add table ${name}\ndelete table ${name}\n`);
        continue;
      }
      const listed = await this.#list(family, signal);
      // What an earlier process left goes on until it runs out, if the rules are the same.
      const isSame = listed !== null && listed.rules.join() === wantedRules(address, policy.fence).join();
      if (isSame) for (const port of listed.ports) left.add(port);
      else texts.push(`add table ${name}\ndelete table ${name}\n${relayRuleset(address, policy.fence)}`);
    }
    if (texts.length > 0) await loadRuleset(this.#exec, texts.join(""), signal);
    this.#addresses = policy.addresses;
    return left;
  }

  async change(change: RelayChange, signal: AbortSignal): Promise<void> {
    const text = relayChangeText(this.#addresses, change);
    if (text !== "") await loadRuleset(this.#exec, text, signal);
    // A connection that conntrack knows goes where it went, whatever the maps say now.
    const moved = [...(change.remove ?? []), ...(change.put ?? [])].map((link) => link.port);
    const ports = new Set([...(change.open ?? []), ...(change.close ?? []), ...moved]);
    for (const address of this.#addresses) {
      for (const port of ports) await this.#forgetConnections(address, port, signal);
    }
  }

  async #forgetConnections(address: IpAddress, port: number, signal: AbortSignal): Promise<void> {
    const family = familyOf(address) === 4 ? "ipv4" : "ipv6";
    const which = ["-f", family, "-p", "udp", "--orig-dst", address, "--dport", String(port)];
    const result = await this.#exec.run(["conntrack", "-D", ...which], { signal });
    // It ends with 1 when there was none.
    if (result.code > 1 || /Operation not|not permitted/.test(result.stderr)) {
      throw nftFailed(`forget the connections of UDP port ${port}`, result);
    }
  }

  async read(signal: AbortSignal): Promise<RelayReading> {
    const leases: LeaseCount[] = [];
    let passed = 0;
    for (const address of this.#addresses) {
      const listed = await this.#list(familyOf(address), signal);
      if (listed === null) continue;
      passed += listed.passed;
      leases.push(...listed.leases);
    }
    return { leases, passed };
  }

  async reset(signal: AbortSignal): Promise<void> {
    this.#addresses = [];
    await removeRelayTables(this.#exec, signal);
  }

  async #list(family: Family, signal: AbortSignal): Promise<ListedRelay | null> {
    const argv = ["nft", "-j", "list", "table", tableFamily(family), RELAY_TABLE] as const;
    const result = await this.#exec.run(argv, { signal });
    if (result.code === 0) return listedRelay(JSON.parse(result.stdout));
    if (isMissing(result.stderr)) return null;
    throw nftFailed(`list the nft table "${RELAY_TABLE}"`, result);
  }
}

function tableFamily(family: Family): "ip" | "ip6" {
  return family === 4 ? "ip" : "ip6";
}

function wantedRules(address: IpAddress, fence: readonly string[]): readonly string[] {
  return relayChains(address, fence).flatMap(({ name, rules }) => rules.map((text) => `${name} ${ruleHash(text)}`));
}

/** By their fixed name, from whatever state. True when there was one. */
export async function removeRelayTables(exec: Exec, signal: AbortSignal): Promise<boolean> {
  return await removeEach(["ip", "ip6"] as const, async (family) => {
    const result = await exec.run(["nft", "delete", "table", family, RELAY_TABLE], { signal });
    if (result.code === 0 || isMissing(result.stderr)) return result.code === 0;
    throw nftFailed(`delete the nft table "${RELAY_TABLE}"`, result);
  });
}

interface ListedRelay {
  /** `chain comment`, in order. */
  readonly rules: readonly string[];
  readonly ports: readonly number[];
  readonly leases: readonly LeaseCount[];
  readonly passed: number;
}

const RULE = z.object({ chain: z.string(), comment: z.string().optional() });
const COUNTS = z.object({ packets: z.number(), bytes: z.number() });
const SET = z.object({ name: z.string(), elem: z.array(z.unknown()).optional() });
const PORT = z.object({ elem: z.object({ val: z.number() }) });
const LEASE = z.object({
  elem: z.object({
    val: z.object({ concat: z.tuple([z.string(), z.number(), z.number()]) }),
    counter: COUNTS.optional(),
  }),
});
const LISTING = z.object({ nftables: z.array(z.record(z.string(), z.unknown())) });

/** nft counts whole packets: the header of IP without options, and UDP's. */
const HEADER_BYTES: Readonly<Record<Family, number>> = { 4: 28, 6: 48 };

/** From the JSON of `nft -j list table`; an element of another shape than ours is none. */
export function listedRelay(json: unknown): ListedRelay {
  const rules: string[] = [];
  const ports: number[] = [];
  const leases: LeaseCount[] = [];
  let passed = 0;
  for (const item of LISTING.parse(json).nftables) {
    if (item["rule"] !== undefined) {
      const rule = RULE.parse(item["rule"]);
      rules.push(`${rule.chain} ${rule.comment ?? ""}`);
    } else if (item["counter"] !== undefined) {
      passed += COUNTS.parse(item["counter"]).packets;
    } else if (item["set"] !== undefined) {
      const set = SET.parse(item["set"]);
      for (const elem of set.elem ?? []) {
        const port = PORT.safeParse(elem);
        if (set.name === "ports" && port.success) ports.push(port.data.elem.val);
        const lease = LEASE.safeParse(elem);
        if (set.name !== "lease" || !lease.success) continue;
        const [text, from, to] = lease.data.elem.val.concat;
        const address = parseIp(text);
        const { packets, bytes } = lease.data.elem.counter ?? { packets: 0, bytes: 0 };
        if (address === null) continue;
        const payload = Math.max(0, bytes - packets * HEADER_BYTES[familyOf(address)]);
        leases.push({ key: leaseKey(to, { address, port: from }), packets, bytes: payload });
      }
    }
  }
  return { rules, ports, leases, passed };
}
