// What becomes of a packet on the fake Mac: its routes (the longest prefix decides) and then pf's rules (the first that matches, as all are quick).
import { type Cidr, cidrContains, cidrParts, type IpAddress, parseCidr, parseIp } from "../../../../src/base/ip.ts";
import { parseNetstat } from "../../../../src/net/netstat.ts";
import { ip } from "../firewall/exit-policy.ts";
import type { FakeMac } from "./fake-mac.ts";

export type Verdict = "open" | "tunnel" | "closed";

export interface Packet {
  readonly from?: IpAddress;
  readonly fromPort?: number;
  readonly to: IpAddress;
  readonly port: number;
  readonly protocol: "tcp" | "udp";
  /** Of the program; null for what this machine forwards. */
  readonly uid: number | null;
  /** The program has bound its socket to this interface. */
  readonly boundTo?: string;
}

const PERSON = 501;
const internet = { protocol: "tcp", port: 443, uid: PERSON } as const;
const six = ip("2001:db8:ffff::9");
const four = ip("198.51.100.9");
const LAN4 = ip("192.168.7.5");

/** The columns of docs/security-states.md that mean something on macOS, each with what is tried. */
export const CLASSES: Readonly<Record<string, readonly Packet[]>> = {
  internet: [
    { ...internet, to: four },
    { ...internet, to: six },
    { ...internet, protocol: "udp", to: four },
  ],
  LAN: [
    { ...internet, port: 80, to: LAN4 },
    { ...internet, protocol: "udp", port: 5353, to: LAN4 },
  ],
  "internet DNS": names(53, four, six),
  "internet DoT": names(853, four, six),
  "LAN DNS": names(53, ip("192.168.7.1")),
  "LAN DoT": names(853, ip("192.168.7.1")),
  "bound to en0": [
    { ...internet, to: four, boundTo: "en0" },
    { ...internet, to: six, boundTo: "en0" },
  ],
  carrier: [
    { ...internet, uid: 0, to: ip("203.0.113.10") },
    { ...internet, uid: 0, to: ip("2001:db8:10::10"), port: 8443 },
  ],
  "server, others": [
    { ...internet, to: ip("203.0.113.10") },
    { ...internet, uid: 0, port: 22, to: ip("203.0.113.10") },
  ],
  DHCP: [{ ...internet, protocol: "udp", uid: 0, fromPort: 68, port: 67, to: ip("255.255.255.255"), boundTo: "en0" }],
  containers: [{ ...internet, from: ip("192.168.64.5"), uid: null, to: four }],
};

function names(port: number, ...servers: readonly IpAddress[]): readonly Packet[] {
  return servers.flatMap((to) => (["udp", "tcp"] as const).map((protocol) => ({ ...internet, protocol, port, to })));
}

/** The same for every packet of the class, or the test is wrong. */
export function verdictOf(mac: FakeMac, packets: readonly Packet[]): Verdict {
  const verdicts = new Set(packets.map((packet) => verdict(mac, packet)));
  const [only, ...others] = verdicts;
  if (only === undefined || others.length > 0) throw new Error(`The packets differ: ${[...verdicts].join(", ")}.`);
  return only;
}

function verdict(mac: FakeMac, packet: Packet): Verdict {
  const by = packet.boundTo ?? wayOf(mac, packet.to);
  if (by === null) return "closed";
  const isClosed = mac.isPfOn && [...mac.anchors.values()].some((rules) => !passes(rules, packet, by));
  if (isClosed) return "closed";
  return by.startsWith("utun") ? "tunnel" : "open";
}

/** Null where a route refuses. */
function wayOf(mac: FakeMac, to: IpAddress): string | null {
  const family = to.includes(":") ? 6 : 4;
  const shown = parseNetstat(mac.netstat(family === 4 ? "inet" : "inet6"), family);
  const length = (prefix: Cidr | null): number => (prefix === null ? -1 : cidrParts(prefix).length);
  const [best] = shown
    .filter(({ prefix, isDefault }) => isDefault || (prefix !== null && cidrContains(prefix, to)))
    .toSorted((a, b) => length(b.prefix) - length(a.prefix));
  return best === undefined || best.flags.includes("R") ? null : best.interface;
}

function passes(rules: readonly string[], packet: Packet, by: string): boolean {
  const decides = rules.find((rule) => matches(rule, packet, by));
  if (decides !== undefined && !decides.includes(" quick ")) throw new Error(`Not quick: ${decides}`);
  return decides?.startsWith("pass") ?? true;
}

/** What leaves, by the grammar of pf.conf(5), as far as our rules use it; a word that is not known fails the test. */
function matches(rule: string, packet: Packet, by: string): boolean {
  const known =
    /^(?:pass|block (?:return|drop))(?: (in|out))? quick(?: on (\S+))?(?: (inet6?))?(?: proto (\S+))?(?: all| from (\S+)(?: port = (\d+))? to (\S+)(?: port = (\d+))?)(?: user = (\d+))?(?: icmp6?-type \d+)?(?: code \d+)?(?: no state)? label "[^"]+"$/;
  const found = known.exec(rule);
  if (found === null) throw new Error(`The test does not know the rule: ${rule}`);
  const [, direction, on, family, protocol, from, fromPort, to, port, user] = found;
  if (direction === "in") return false;
  if (on !== undefined && on !== by) return false;
  if (family !== undefined && (family === "inet6") !== packet.to.includes(":")) return false;
  if (protocol !== undefined && protocol !== packet.protocol) return false;
  if (from !== undefined && from !== "any" && !isWithin(from, packet.from)) return false;
  if (fromPort !== undefined && Number(fromPort) !== packet.fromPort) return false;
  if (to !== undefined && to !== "any" && !isWithin(to, packet.to)) return false;
  if (port !== undefined && Number(port) !== packet.port) return false;
  return user === undefined || Number(user) === packet.uid;
}

function isWithin(shown: string, address: IpAddress | undefined): boolean {
  if (address === undefined) return false;
  const prefix = parseCidr(shown);
  return prefix === null ? parseIp(shown) === address : cidrContains(prefix, address);
}
