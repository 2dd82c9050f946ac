// What becomes of a packet on the Windows machine in memory: its routes choose interface and source, and then a refusal wins, a permission, the default.
//
// learn.microsoft.com, windows-firewall/rules, "Rule precedence for inbound and outbound rules"; the routes by longest prefix, then by the
// sum of both metrics (Get-NetRoute).
import {
  cidrContains,
  cidrParts,
  familyOf,
  type IpAddress,
  ipBytes,
  parseCidr,
  parseIp,
} from "../../../../src/base/ip.ts";
import type { WindowsRule } from "../../../../src/net/firewall/windows-rules.ts";
import { ip } from "../firewall/exit-policy.ts";
import { PROGRAM } from "./client-scene.ts";
import type { FakeWindows } from "./fake-windows.ts";

export type Verdict = "open" | "tunnel" | "closed";

/** What a rule sees. */
export interface RulePacket {
  readonly direction: "Outbound" | "Inbound";
  readonly protocol: "TCP" | "UDP" | "ICMPv4" | "ICMPv6";
  readonly local: string;
  readonly remote: string;
  readonly localPort?: number;
  readonly remotePort?: number;
  readonly icmpType?: number;
  readonly program?: string;
}

export function hasAddress(texts: readonly string[] | undefined, address: string): boolean {
  const wanted = ip(address);
  return (texts ?? [address]).some((text) => {
    const prefix = parseCidr(text);
    if (prefix !== null) return cidrContains(prefix, wanted);
    const [first = "", last = first] = text.split("-");
    if (first.includes(":") !== address.includes(":")) return false;
    return numberOf(first) <= numberOf(address) && numberOf(address) <= numberOf(last);
  });
}

function numberOf(address: string): bigint {
  return BigInt(`0x${ipBytes(ip(address)).toHex()}`);
}

function hasPort(texts: readonly string[] | undefined, port: number | undefined): boolean {
  if (texts === undefined) return true;
  return texts.some((text) => {
    const [first = 0, last = first] = text.split("-").map(Number);
    return port !== undefined && first <= port && port <= last;
  });
}

function matches(rule: WindowsRule, packet: RulePacket): boolean {
  return (
    rule.Direction === packet.direction &&
    (rule.Protocol === undefined || rule.Protocol === packet.protocol) &&
    (rule.Program === undefined || rule.Program === packet.program) &&
    hasAddress(rule.LocalAddress, packet.local) &&
    hasAddress(rule.RemoteAddress, packet.remote) &&
    hasPort(rule.LocalPort, packet.localPort) &&
    hasPort(rule.RemotePort, packet.remotePort) &&
    (rule.IcmpType === undefined || rule.IcmpType.includes(String(packet.icmpType)))
  );
}

/** What others have on such a machine: a program that may do anything, and file sharing. */
const OTHERS: readonly WindowsRule[] = [
  { Name: "x", DisplayName: "a game", Direction: "Outbound", Action: "Allow", Program: "game.exe" },
  {
    Name: "y",
    DisplayName: "File and Printer Sharing",
    Direction: "Inbound",
    Action: "Allow",
    Protocol: "TCP",
    LocalPort: ["445"],
  },
];

/** `isClosed`: the default for what leaves. */
export function ruleVerdict(
  { rules, isClosed }: { readonly rules: readonly WindowsRule[]; readonly isClosed: boolean },
  packet: RulePacket,
): "open" | "closed" {
  const hit = [...rules, ...OTHERS].filter((rule) => matches(rule, packet));
  if (hit.some(({ Action }) => Action === "Block")) return "closed";
  if (hit.some(({ Action }) => Action === "Allow")) return "open";
  return packet.direction === "Inbound" || isClosed ? "closed" : "open";
}

export interface Sent {
  readonly to: IpAddress;
  readonly port: number;
  readonly protocol: "TCP" | "UDP";
  readonly program?: string;
  /** The program has bound its socket to this interface. */
  readonly boundTo?: number;
  readonly from?: IpAddress;
  readonly fromPort?: number;
}

export const WIFI = 12;
const V4 = ip("198.51.100.9");
const V6 = ip("2001:db8:ffff::9");
const tcp = { protocol: "TCP", port: 443 } as const;
const both = (rest: Omit<Sent, "to">, ...to: readonly IpAddress[]): readonly Sent[] =>
  to.map((one) => ({ ...rest, to: one }));
const names = (port: number, ...servers: readonly IpAddress[]): readonly Sent[] =>
  (["UDP", "TCP"] as const).flatMap((protocol) => both({ protocol, port }, ...servers));

/** The columns of docs/security-states.md that mean something on Windows, each with what is tried. */
export const CLASSES: Readonly<Record<string, readonly Sent[]>> = {
  internet: [...both(tcp, V4, V6), ...both({ protocol: "UDP", port: 443 }, V4, V6)],
  LAN: [
    ...both({ ...tcp, port: 445 }, ip("192.168.7.9"), ip("fd66:1::9")),
    ...both({ protocol: "UDP", port: 5353 }, ip("192.168.7.9")),
  ],
  "internet DNS": names(53, V4, V6),
  "internet DoT": names(853, V4, V6),
  "LAN DNS": names(53, ip("192.168.7.1")),
  "LAN DoT": names(853, ip("192.168.7.1")),
  "bound to Wi-Fi": both({ ...tcp, boundTo: WIFI }, V4, V6),
  "the same, with a permission of its own": both({ ...tcp, boundTo: WIFI, program: "game.exe" }, V4, V6),
  carrier: [
    { ...tcp, to: ip("203.0.113.10"), program: PROGRAM },
    { ...tcp, to: ip("2001:db8:10::10"), port: 8443, program: PROGRAM },
  ],
  "server, others": [
    { ...tcp, to: ip("203.0.113.10"), program: "browser.exe" },
    { ...tcp, to: ip("203.0.113.10"), port: 22, program: PROGRAM },
    { protocol: "UDP", to: ip("203.0.113.10"), port: 443, program: "game.exe" },
  ],
  "server, TCP with a permission of its own": [{ ...tcp, to: ip("203.0.113.10"), program: "game.exe" }],
  DHCP: [{ protocol: "UDP", to: ip("255.255.255.255"), port: 67, from: ip("0.0.0.0"), fromPort: 68, boundTo: WIFI }],
};

/** The same for every packet of the class, or the test is wrong. */
export function verdictOf(windows: FakeWindows, packets: readonly Sent[]): Verdict {
  const verdicts = new Set(packets.map((packet) => verdict(windows, packet)));
  const [only, ...others] = verdicts;
  if (only === undefined || others.length > 0) throw new Error(`The packets differ: ${[...verdicts].join(", ")}.`);
  return only;
}

function verdict(windows: FakeWindows, sent: Sent): Verdict {
  const by = sent.boundTo ?? wayOf(windows, sent.to);
  const local = by === null ? undefined : (sent.from ?? sourceOf(windows, by, sent.to));
  if (local === undefined) return "closed";
  const isClosed = windows.profiles.get("Public")?.outbound === "Block";
  const packet: RulePacket = {
    direction: "Outbound",
    protocol: sent.protocol,
    local,
    remote: sent.to,
    remotePort: sent.port,
    localPort: sent.fromPort ?? 50_000,
    program: sent.program ?? "browser.exe",
  };
  if (ruleVerdict({ rules: [...windows.rules.values()], isClosed }, packet) === "closed") return "closed";
  return windows.network.interfaces.some(({ index, alias }) => index === by && alias === "higgs0") ? "tunnel" : "open";
}

/** The interface's number; null without a route. */
function wayOf({ network }: FakeWindows, to: IpAddress): number | null {
  const metricOf = (index: number): number => network.interfaces.find((one) => one.index === index)?.metric ?? 0;
  const [best] = network.routes
    .flatMap((route) => {
      const prefix = parseCidr(route.prefix);
      return prefix !== null && cidrContains(prefix, to) ? [{ ...route, length: cidrParts(prefix).length }] : [];
    })
    .toSorted((a, b) => b.length - a.length || a.metric + metricOf(a.index) - b.metric - metricOf(b.index));
  return best?.index ?? null;
}

function sourceOf({ network }: FakeWindows, index: number, to: IpAddress): IpAddress | undefined {
  const own = network.addresses.filter((one) => one.index === index).flatMap(({ address }) => parseIp(address) ?? []);
  return own.find((address) => familyOf(address) === familyOf(to));
}
