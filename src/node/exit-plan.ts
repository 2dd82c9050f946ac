// What an exit's firewall must say, from the machine's links and the clients of the moment.
import { type Cidr, cidrParts, familyOf, hostCidr, type IpAddress, parseCidr } from "../base/ip.ts";
import { type ExitOutlet, type ExitPolicy, LEASE_S } from "../net/firewall/exit.ts";
import type { Fence } from "../net/forwarding.ts";
import type { Links } from "../net/links.ts";

export interface ExitInputs {
  readonly interface: string;
  readonly resolverPort: number;
  /** The node's own tunnel addresses. */
  readonly addresses: readonly IpAddress[];
  /** Tunnel addresses of the machines in session. */
  readonly clients: readonly IpAddress[];
  readonly links: Links;
  /** What the links do not tell: the router's own addresses as the world sees them, whose admin page must not open from inside the tunnel. */
  readonly alsoHere: readonly Cidr[];
  readonly fence: Fence;
  readonly outlet: ExitOutlet;
  /** False for `--no-exit`: isolation alone. */
  readonly offered: boolean;
}

/** A home gets a /56 more often than a /64; its other networks are neighbours too. */
const DELEGATED_LENGTH = 56;

export function exitPolicy(inputs: ExitInputs): ExitPolicy {
  const here = herePrefixes(inputs.links, inputs.alsoHere);
  const uplinks = [...new Set(inputs.links.uplinks.map((uplink) => uplink.interface))].sort();
  return {
    interface: inputs.interface,
    uplinks: inputs.offered ? uplinks : [],
    clients4: inputs.clients.filter((address) => familyOf(address) === 4).sort(),
    clients6: inputs.clients.filter((address) => familyOf(address) === 6).sort(),
    addresses: inputs.addresses,
    here4: here.filter((cidr) => familyOf(cidr) === 4),
    here6: here.filter((cidr) => familyOf(cidr) === 6),
    fence4: fenced(inputs.fence.fence4, uplinks),
    fence6: fenced(inputs.fence.fence6, uplinks),
    outlet: inputs.outlet,
    resolverPort: inputs.resolverPort,
    leaseS: LEASE_S,
    open: false,
  };
}

/** A way out that came later is no way through for neighbours either. */
function fenced(fence: readonly string[], uplinks: readonly string[]): readonly string[] {
  return fence.length === 0 ? [] : [...new Set([...fence, ...uplinks])].sort();
}

/** Everything that is the node's own place, sorted, without repeats. */
export function herePrefixes(links: Links, also: readonly Cidr[]): Cidr[] {
  const prefixes = new Set<Cidr>([...links.delegated, ...also]);
  for (const { prefix } of links.connected) {
    prefixes.add(prefix);
    const wide = homePrefix(prefix);
    if (wide !== null) prefixes.add(wide);
  }
  for (const { gateway } of links.uplinks) if (gateway !== null) prefixes.add(hostCidr(gateway));
  for (const { address } of links.addresses) prefixes.add(hostCidr(address));
  return [...prefixes].sort();
}

function homePrefix(prefix: Cidr): Cidr | null {
  const { address, length } = cidrParts(prefix);
  if (familyOf(prefix) !== 6 || length <= DELEGATED_LENGTH || !isGlobal(address)) return null;
  return parseCidr(`${address}/${DELEGATED_LENGTH}`);
}

/** 2000::/3, the only part of IPv6 that the internet routes. */
function isGlobal(address: IpAddress): boolean {
  return familyOf(address) === 6 && /^[23][0-9a-f]{3}:/.test(address);
}

/** True when the machine has a way out in IPv6 and an address that the internet can answer. */
export function hasIpv6(links: Links): boolean {
  return (
    links.uplinks.some((uplink) => uplink.family === 6) &&
    links.addresses.some((entry) => entry.scope === "global" && isGlobal(entry.address))
  );
}
