// What an exit lets its clients do, and the interface of the firewall that holds them to it.
import { type Cidr, hostCidr, type IpAddress, parseCidr, parseIp } from "../../base/ip.ts";
import type { PortRange } from "../../proto/exit-terms.ts";

/** How long what an exit permits outlives the process that permits it; the process renews every third of it. */
export const LEASE_S = 30;

/** What the exit's owner has decided. What is denied everywhere stays denied, but for the parts of the own place that are opened. */
export interface ExitOutlet {
  /** Null for all. */
  readonly ports: readonly PortRange[] | null;
  /** Port 25. */
  readonly mail: boolean;
  readonly closed: readonly Cidr[];
  /** `sources`: of the prefix's own family; null for every client. */
  readonly lan: readonly { readonly prefix: Cidr; readonly sources: readonly IpAddress[] | null }[];
}

/** What an exit lets out whose owner has decided nothing. */
export const USUAL_OUTLET: ExitOutlet = { ports: null, mail: false, closed: [], lan: [] };

export interface ExitPolicy {
  /** The tunnel's interface. */
  readonly interface: string;
  /** Interfaces by which clients reach the internet; with none of them nothing passes. */
  readonly uplinks: readonly string[];
  /** Tunnel addresses of the machines that may use the exit; any other inner source is dropped. */
  readonly clients4: readonly IpAddress[];
  readonly clients6: readonly IpAddress[];
  /** The node's own tunnel addresses; from anywhere but the tunnel they are unreachable. */
  readonly addresses: readonly IpAddress[];
  /** What is the node's own place: connected prefixes, gateways, own and the router's public addresses, the delegated prefix. */
  readonly here4: readonly Cidr[];
  readonly here6: readonly Cidr[];
  /** Interfaces among which nothing else is forwarded, see `Fence`; what this machine redirects on purpose passes. */
  readonly fence4: readonly string[];
  readonly fence6: readonly string[];
  readonly outlet: ExitOutlet;
  /** Where the node's resolver listens; every DNS query of a client is brought there. */
  readonly resolverPort: number;
  readonly leaseS: number;
  /** True: the rules come with a fresh lease. False: a lease that lives stays as it is, one that ran out stays closed. */
  readonly open: boolean;
}

export interface ExitClients {
  readonly clients4: readonly IpAddress[];
  readonly clients6: readonly IpAddress[];
}

export interface ExitKept extends ExitClients {
  readonly here: readonly Cidr[];
}

export interface ExitFirewall {
  /** Replaces the whole table in one transaction; traffic under a living lease loses no packet. */
  apply(policy: ExitPolicy, signal: AbortSignal): Promise<void>;
  /** Opens the exit for another `leaseS`. Throws FirewallNotLoaded before the first `apply`, and when somebody took the table away. */
  renewLease(signal: AbortSignal): Promise<void>;
  /** Closes the exit at once; isolation stays. */
  closeLease(signal: AbortSignal): Promise<void>;
  /** Changes only who may use the exit, in one transaction. */
  setClients(clients: ExitClients, signal: AbortSignal): Promise<void>;
  /** What only the server could tell, from the loaded table, which may be an earlier process's; null without a table. */
  loaded(signal: AbortSignal): Promise<ExitKept | null>;
  /** How the loaded table differs from the policy last applied, as sentences; none when it is as wanted. The lease does not count. */
  verify(signal: AbortSignal): Promise<readonly string[]>;
  /** Takes the table away, and with it the isolation: only after the tunnel's interface is gone. */
  reset(signal: AbortSignal): Promise<void>;
}

/** As a tool lists it: the prefix of one address may be that address. */
export function prefixIn(text: string): Cidr | null {
  const address = parseIp(text);
  return address === null ? parseCidr(text) : hostCidr(address);
}

/** The policy for a person, before it is put in place. */
export function exitSentence(policy: ExitPolicy): string {
  const clients = policy.clients4.length + policy.clients6.length;
  const uplinks = policy.uplinks.length === 0 ? "no uplink" : policy.uplinks.join(", ");
  return `${clients} client addresses on ${policy.interface} may use ${uplinks}, and reach nothing here.`;
}

/** Never reached through an exit: what is no public IPv4 address, and the metadata service of a cloud (168.63.129.16). */
export const DENIED4: readonly Cidr[] = cidrs(
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "168.63.129.16/32",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "224.0.0.0/3",
);

/** The same for IPv6, with every prefix that carries an IPv4 address inside. */
export const DENIED6: readonly Cidr[] = cidrs(
  "::/127",
  "::ffff:0:0/96",
  "64:ff9b::/96",
  "64:ff9b:1::/48",
  "2002::/16",
  "fc00::/7",
  "fe80::/10",
  "ff00::/8",
);

/**
 * Closed whatever is opened: what no network has, and the metadata services of clouds, which give keys to whoever asks
 * (169.254.0.0/16, 168.63.129.16, 100.100.100.200, 192.0.0.192, fd00:ec2::254, fd20:ce::254).
 */
export const NEVER4: readonly Cidr[] = cidrs(
  "0.0.0.0/8",
  "100.100.100.200/32",
  "127.0.0.0/8",
  "168.63.129.16/32",
  "169.254.0.0/16",
  "192.0.0.192/32",
  "224.0.0.0/3",
);

export const NEVER6: readonly Cidr[] = cidrs(
  "::/127",
  "::ffff:0:0/96",
  "64:ff9b::/96",
  "64:ff9b:1::/48",
  "2002::/16",
  "fd00:ec2::254/128",
  "fd20:ce::254/128",
  "fe80::/10",
  "ff00::/8",
);

/** Constants, not parsed: `parseCidr` reads `::ffff:0:0/96` as a prefix of IPv4, which has no such length. */
function cidrs(...texts: readonly string[]): readonly Cidr[] {
  return texts as readonly Cidr[];
}
