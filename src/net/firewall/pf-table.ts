// The rules of a client's firewall as pf takes them: one text for each situation, pure.
//
// From pf.conf(5): the last rule that matches decides, unless one that matched is "quick", and all of ours are. Nothing of ours keeps
// state: what may pass may pass at any time, so that connections of before need no state of before, and none lives on.
import { createHash } from "node:crypto";
import { type Cidr, type Endpoint, type Family, familyOf } from "../../base/ip.ts";
import { isInterfaceName } from "../interface-name.ts";
import type { ClientFirewallPolicy, Nearby } from "./client.ts";
import { FirewallNameRefused } from "./errors.ts";

/** What may leave and come in beside what is near; null: nothing. */
interface Passing {
  readonly carrier: readonly Endpoint[];
  readonly uid: number;
  /** The tunnel's own name on this machine; null while there is none. */
  readonly device: string | null;
  readonly addresses: readonly string[];
}

/** Null for no rules at all: the machine is open. `device`: what macOS has named the tunnel, null while there is none. */
export function pfRules(policy: ClientFirewallPolicy, device: string | null): readonly string[] | null {
  switch (policy.kind) {
    case "disconnected":
      return null;
    case "exitless":
      return null; // nothing is closed then, and there is no mark here by which anything would have to be told
    case "connecting":
    case "connected": {
      const { own, tunnel, near } = policy;
      return rules(near, { carrier: own.carrier, uid: own.uid, device, addresses: tunnel.addresses });
    }
    case "disconnecting":
    case "blocked":
      return rules(policy.near, null);
  }
}

function rules(near: Nearby, passing: Passing | null): readonly string[] {
  const device = passing?.device ?? null;
  return [
    // pf.conf(5), "on": the interface by which a packet comes or leaves.
    "pass quick on lo0 all no state",
    ...(passing?.carrier ?? []).flatMap((endpoint) => carrierRules(endpoint, passing?.uid ?? 0)),
    ...DHCP,
    ...NEIGHBOURS,
    ...TOO_LARGE,
    ...[...new Set(near.bridges)].sort().map((name) => `pass quick on ${checked(name)} all no state`),
    ...(device === null ? [] : [`pass quick on ${checked(device)} all no state`]),
    // By the tunnel alone; a LAN that is allowed must not learn every name.
    ...["udp", "tcp"].flatMap((protocol) =>
      [53, 853].map((port) => `block return out quick proto ${protocol} from any to any port ${port}`),
    ),
    // What is sent to the tunnel's address by another interface (CVE-2019-14899).
    ...(passing?.addresses ?? []).map((address) => `block drop in quick ${inet(address)} from any to ${address}`),
    ...(near.lan ?? []).flatMap((prefix) => [
      `pass out quick ${inet(prefix)} from any to ${prefix} no state`,
      `pass in quick ${inet(prefix)} from ${prefix} to any no state`,
    ]),
    // "return": TCP gets a reset and the rest an ICMP error, so that programs need not wait.
    "block return out quick all",
    "block drop in quick all",
  ];
}

/** pf.conf(5), "user": of the socket that sends, for TCP and UDP. What comes back is told by where it comes from. */
function carrierRules({ address, port }: Endpoint, uid: number): readonly string[] {
  return [
    `pass out quick ${inet(address)} proto tcp from any to ${address} port ${port} user ${uid} no state`,
    `pass in quick ${inet(address)} proto tcp from ${address} port ${port} to any no state`,
  ];
}

const DHCP: readonly string[] = [
  "pass out quick inet proto udp from any port 68 to 255.255.255.255 port 67 no state",
  "pass in quick inet proto udp from any port 67 to any port 68 no state",
  "pass out quick inet6 proto udp from fe80::/10 port 546 to ff02::1:2 port 547 no state",
  "pass out quick inet6 proto udp from fe80::/10 port 546 to ff05::1:3 port 547 no state",
  "pass in quick inet6 proto udp from fe80::/10 port 547 to any port 546 no state",
];

/** Router and neighbour discovery (RFC 4861: 133 to 136), and who listens to which multicast (RFC 2710, RFC 3810: 130, 143). */
const NEIGHBOURS: readonly string[] = [
  ...[133, 135, 136, 143].map((type) => `pass out quick inet6 proto ipv6-icmp all icmp6-type ${type} no state`),
  ...[130, 134, 135, 136].map((type) => `pass in quick inet6 proto ipv6-icmp all icmp6-type ${type} no state`),
];

/** That a packet of the carrier was too large for its way (RFC 792: type 3, code 4; RFC 4443: type 2). */
const TOO_LARGE: readonly string[] = [
  "pass in quick inet proto icmp all icmp-type 3 code 4 no state",
  "pass in quick inet6 proto ipv6-icmp all icmp6-type 2 no state",
];

function inet(of: string): string {
  const family: Family = familyOf(of as Cidr);
  return family === 4 ? "inet" : "inet6";
}

function checked(name: string): string {
  if (isInterfaceName(name)) return name;
  throw new FirewallNameRefused(`Cannot use "${name}" in a rule: it is no interface name.`, {
    code: "interface-name-invalid",
  });
}

/**
 * For `pfctl -f -`. pf prints rules in words of its own choosing, so each carries a label by which it is known again: the whole
 * text's hash and the rule's number. A label also keeps the optimizer from joining rules or taking one away (pf.conf(5),
 * "ruleset-optimization").
 */
export function pfText(rules: readonly string[]): string {
  const labels = pfLabels(rules);
  return rules.map((rule, at) => `${rule} label "${labels[at] ?? ""}"\n`).join("");
}

export function pfLabels(rules: readonly string[]): readonly string[] {
  const hash = createHash("sha256").update(rules.join("\n")).digest("hex").slice(0, 16);
  return rules.map((_, at) => `higgs-${hash}-${at + 1}`);
}

/** Those of what `pfctl -a ANCHOR -s rules` printed, in order; a rule without one, or with another's, is shown as "?". */
export function listedLabels(text: string): readonly string[] {
  return ruleLines(text).map((line) => /\blabel "(higgs-[0-9a-f]{16}-\d+)"/.exec(line)?.[1] ?? "?");
}

/** pfctl says on standard error what it has to say of ALTQ; older ones mix it in. */
function ruleLines(text: string): readonly string[] {
  const lines = text.split("\n").map((line) => line.trim());
  return lines.filter((line) => line !== "" && !/^(No ALTQ|ALTQ )/.test(line));
}

/** Why rules in our anchor would not decide, from what `pfctl -s rules` printed of the main rules; null where they do. */
export function anchorTrouble(mainRules: string, anchorPoint: string): string | null {
  // "scrub" only mends packets (pf.conf(5), TRAFFIC NORMALIZATION).
  const lines = ruleLines(mainRules).filter((line) => !/^(no )?scrub/.test(line));
  const at = lines.indexOf(anchorPoint);
  if (at < 0) return "the main rules of pf do not call Apple's anchor, in which higgs's are";
  return at === 0 ? null : `another program's rule of pf decides first: ${lines[0] ?? ""}`;
}
