// The rules of Windows Firewall for each situation of a client, pure: refusals by address, which win over whatever allows, and what is let out.
//
// "Explicit block rules take precedence over any conflicting allow rules", out and in (learn.microsoft.com, windows-firewall/rules). So
// what closes is a refusal of every address but those that may be reached, from every address but the tunnel's: a new interface, or
// another program's permission, opens nothing. Below it the default is to block, which is what holds a program of another name from
// the carrier's server, unless some other rule lets it out.
import { type Cidr, type Family, familyOf, hostCidr, type IpAddress } from "../../base/ip.ts";
import type { ClientFirewallPolicy, Nearby, OwnTraffic, TunnelEnd } from "./client.ts";
import { rangesWithout } from "./address-ranges.ts";

/** The parameters of New-NetFirewallRule, by their names; what is not there is any. */
export interface WindowsRule {
  readonly Name: string;
  readonly DisplayName: string;
  readonly Direction: "Outbound" | "Inbound";
  readonly Action: "Allow" | "Block";
  readonly Program?: string;
  readonly Protocol?: "TCP" | "UDP" | "ICMPv4" | "ICMPv6";
  readonly LocalAddress?: readonly string[];
  readonly RemoteAddress?: readonly string[];
  readonly LocalPort?: readonly string[];
  readonly RemotePort?: readonly string[];
  readonly IcmpType?: readonly string[];
}

export interface WindowsRules {
  /** True: each profile's default action for what leaves is to block, and Windows Firewall is on. */
  readonly isClosed: boolean;
  readonly rules: readonly WindowsRule[];
}

const OPEN_RULES: WindowsRules = { isClosed: false, rules: [] };

/** `program`: higgs' own executable, which alone may use the carrier. */
export function windowsRules(
  policy: ClientFirewallPolicy,
  options: { readonly group: string; readonly program: string },
): WindowsRules {
  switch (policy.kind) {
    case "disconnected":
    case "exitless":
      return OPEN_RULES;
    case "connecting":
    case "connected":
      return closedRules(policy.near, { tunnel: policy.tunnel, own: policy.own }, options);
    case "disconnecting":
    case "blocked":
      return closedRules(policy.near, null, options);
  }
}

interface Passing {
  readonly tunnel: TunnelEnd;
  readonly own: OwnTraffic;
}

type Draft = Omit<WindowsRule, "Name" | "DisplayName"> & { readonly why: string };

function closedRules(
  near: Nearby,
  passing: Passing | null,
  options: { readonly group: string; readonly program: string },
): WindowsRules {
  const drafts = [
    ...([4, 6] as const).flatMap((family) => refusals(family, near, passing)),
    ...allowances(near, passing, options.program),
  ];
  return { isClosed: true, rules: drafts.map((draft) => named(draft, options.group)) };
}

/** This machine itself, and the sender of a DHCP request. */
const ALWAYS_LOCAL: Readonly<Record<Family, readonly Cidr[]>> = {
  4: ["0.0.0.0/32", "127.0.0.0/8"] as unknown as readonly Cidr[],
  6: ["::/127"] as unknown as readonly Cidr[],
};
/** This machine itself, and whom DHCP and DHCPv6 ask (RFC 2131 section 4.1, RFC 8415 section 7.1). */
const ALWAYS_REMOTE: Readonly<Record<Family, readonly Cidr[]>> = {
  4: ["0.0.0.0/32", "127.0.0.0/8", "255.255.255.255/32"] as unknown as readonly Cidr[],
  6: ["::/127", "ff02::1:2/128"] as unknown as readonly Cidr[],
};
/** Names and their encrypted kin: never from beside the tunnel, also where the LAN is allowed. */
const NAME_PORTS = ["53", "853"] as const;
/** All but the port that DHCP's and DHCPv6's answers come to. */
const UDP_IN: Readonly<Record<Family, readonly string[]>> = { 4: ["1-67", "69-65535"], 6: ["1-545", "547-65535"] };
/** Echo requests; neighbour discovery is ICMPv6 too and must pass. */
const ECHO: Readonly<Record<Family, string>> = { 4: "8", 6: "128" };

function refusals(family: Family, near: Nearby, passing: Passing | null): readonly Draft[] {
  const inTunnel = (passing?.tunnel.addresses ?? []).filter((address) => familyOf(address) === family).map(hostCidr);
  const local = rangesWithout(family, [...ALWAYS_LOCAL[family], ...inTunnel]);
  const lan = near.lan ?? [];
  const carriers = (passing?.own.carrier ?? []).map(({ address }) => hostCidr(address));
  const reachable = [...ALWAYS_REMOTE[family], ...lan];
  const tcpOut = rangesWithout(family, [...reachable, ...carriers]);
  const beyond = rangesWithout(family, reachable);
  const icmp = family === 4 ? "ICMPv4" : "ICMPv6";
  const block = (direction: WindowsRule["Direction"], rest: Omit<Draft, "Direction" | "Action">): Draft => ({
    Direction: direction,
    Action: "Block",
    LocalAddress: local,
    ...rest,
  });
  return [
    block("Outbound", { Protocol: "TCP", RemoteAddress: tcpOut, why: `TCP over IPv${family} but by the tunnel` }),
    block("Outbound", { Protocol: "UDP", RemoteAddress: beyond, why: `UDP over IPv${family} but by the tunnel` }),
    block("Outbound", {
      Protocol: icmp,
      IcmpType: [ECHO[family]],
      RemoteAddress: beyond,
      why: `ping over IPv${family}`,
    }),
    ...(near.lan === null ? [] : namesOut(family, block)),
    block("Inbound", { Protocol: "TCP", RemoteAddress: beyond, why: `TCP over IPv${family} from beside the tunnel` }),
    block("Inbound", {
      Protocol: "UDP",
      LocalPort: UDP_IN[family],
      RemoteAddress: beyond,
      why: `UDP over IPv${family} from beside the tunnel`,
    }),
    block("Inbound", {
      Protocol: icmp,
      IcmpType: [ECHO[family]],
      RemoteAddress: beyond,
      why: `ping over IPv${family}`,
    }),
  ];
}

/** A LAN that is allowed answers no names. */
function namesOut(
  family: Family,
  block: (direction: WindowsRule["Direction"], rest: Omit<Draft, "Direction" | "Action">) => Draft,
): readonly Draft[] {
  const RemoteAddress = rangesWithout(family, ALWAYS_REMOTE[family]);
  return (["TCP", "UDP"] as const).map((Protocol) =>
    block("Outbound", {
      Protocol,
      RemoteAddress,
      RemotePort: NAME_PORTS,
      why: `names over IPv${family} by ${Protocol}`,
    }),
  );
}

/** What the default would block. */
function allowances(near: Nearby, passing: Passing | null, program: string): readonly Draft[] {
  const allow = (rest: Omit<Draft, "Direction" | "Action">): Draft => ({
    Direction: "Outbound",
    Action: "Allow",
    ...rest,
  });
  const found: Draft[] = [
    allow({ Protocol: "UDP", LocalPort: ["68"], RemotePort: ["67"], why: "DHCP" }),
    allow({ Protocol: "UDP", LocalPort: ["546"], RemotePort: ["547"], why: "DHCPv6" }),
    // RFC 4861: router and neighbour solicitation, neighbour advertisement; RFC 3810: multicast listener report.
    allow({ Protocol: "ICMPv6", IcmpType: ["133", "135", "136", "143"], why: "neighbours" }),
  ];
  if (near.lan !== null) found.push(allow({ RemoteAddress: [...near.lan].sort(), why: "the LAN" }));
  if (passing === null) return found;
  const { addresses } = passing.tunnel;
  found.push(allow({ LocalAddress: [...addresses].sort(), why: "the tunnel" }));
  for (const { address, port } of passing.own.carrier) {
    const to: readonly IpAddress[] = [address];
    found.push(
      allow({
        Program: program,
        Protocol: "TCP",
        RemoteAddress: to,
        RemotePort: [String(port)],
        why: `carrier to ${address} ${port}`,
      }),
    );
  }
  return found;
}

/** The name tells what the rule is, so that one of that name that is there is the same rule. */
function named({ why, ...rest }: Draft, group: string): WindowsRule {
  const digest = new Bun.CryptoHasher("sha256")
    .update(JSON.stringify({ ...rest, why }))
    .digest("hex")
    .slice(0, 16);
  return { Name: `${group}-${digest}`, DisplayName: `higgs: ${why}`, ...rest };
}
