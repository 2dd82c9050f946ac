// What a small internet consists of: segments, hosts, their interfaces, NAT and services, as plain data.
import { LabTopologyInvalid } from "./errors.ts";

/** One layer-2 network: a switch without a mind of its own. At most 15 characters, as it names a bridge. */
export interface Segment {
  readonly name: string;
}

/** An address with the length of its network, as `ip addr add` takes it: "192.168.7.2/24". */
export type InterfaceAddress = string;

export interface InterfaceSpec {
  /** As the host sees it: "eth0", "wan", "lan". */
  readonly name: string;
  readonly segment: string;
  readonly ipv4?: InterfaceAddress;
  /** More than one is usual for a gateway on the internet segment. */
  readonly ipv6?: readonly InterfaceAddress[];
  /** The cable to the segment is a long one. Without it, a packet takes no time. */
  readonly line?: LineSpec;
}

/** A cable that takes its time, in both directions alike; packets stay in their order. */
export interface LineSpec {
  /** One way: the round trip grows by twice as much. */
  readonly delayMs: number;
  /** Up to so much more for each packet, drawn evenly. */
  readonly jitterMs?: number;
  /** All others take no time: one path's packets are slow, and those of another beside it are not. */
  readonly only?: "tcp" | "udp";
}

export interface RouteSpec {
  /** "default4", "default6" or a network. */
  readonly to: string;
  readonly via: string;
}

/**
 * How a router's NAT maps and filters UDP (RFC 4787). "static" gives the first LAN host the whole public address;
 * "none" routes only.
 */
export type NatKind =
  | "none"
  | "static"
  | "full-cone"
  | "address-restricted"
  | "port-restricted"
  | "port-restricted-non-preserving"
  | "symmetric-sequential"
  | "symmetric-address"
  | "symmetric-random"
  /** As "symmetric-random", out of a block of 1000 ports: a provider that shares one address among many lines. */
  | "symmetric-pool";

/** A port that a person forwarded by hand on the router. */
export interface PortForward {
  readonly protocol: "tcp" | "udp";
  readonly port: number;
  readonly to: string;
  readonly toPort: number;
}

export interface RouterSpec {
  readonly nat: NatKind;
  readonly wan: string;
  readonly lan: string;
  readonly forwards?: readonly PortForward[];
  /** The inside host of a "static" NAT. */
  readonly staticTo?: string;
  /** The router answers DNS on its LAN address, by handing queries to this resolver. */
  readonly dnsVia?: string;
  /** Drops everything in UDP but DNS, as some office and hotel networks do. */
  readonly blockUdp?: boolean;
  /** Takes unsolicited packets on the WAN side itself instead of dropping them; real routers do not. */
  readonly acceptInput?: boolean;
  /** LAN neighbours reach each other by the public address too. */
  readonly hairpin?: boolean;
}

/** A service of the lab's internet, run on the host by the program that the lab was given for it. */
export type ServiceSpec =
  | { readonly kind: "web"; readonly port: number }
  | { readonly kind: "dns"; readonly zone: readonly ZoneRecord[] }
  | { readonly kind: "proxy"; readonly port: number; readonly login?: string };

export interface ZoneRecord {
  readonly name: string;
  readonly type: "A" | "AAAA" | "TXT";
  readonly data: string;
}

export interface HostSpec {
  readonly name: string;
  /** "gateway" forwards for the internet itself, without NAT or filter. */
  readonly kind: "host" | "router" | "gateway";
  readonly interfaces: readonly InterfaceSpec[];
  readonly routes: readonly RouteSpec[];
  /** Lines for resolv.conf. */
  readonly nameservers: readonly string[];
  readonly router?: RouterSpec;
  readonly services?: readonly ServiceSpec[];
  /** On top of the usual ones, such as conntrack's timers: "net.netfilter.nf_conntrack_udp_timeout": "3". */
  readonly sysctls?: Readonly<Record<string, string>>;
}

export interface Topology {
  readonly segments: readonly Segment[];
  readonly hosts: readonly HostSpec[];
}

const INTERFACE_NAME_LIMIT = 15; // IFNAMSIZ less the closing zero
/** A way by geostationary satellite is 280 ms. */
const MOST_DELAY_MS = 2_000;

/** Throws LabTopologyInvalid for what the kernel would refuse half-way through the building. */
export function checkTopology(topology: Topology): void {
  const segments = new Set(topology.segments.map((segment) => segment.name));
  const hosts = new Set<string>();
  for (const { name } of topology.segments) checkName(name);
  for (const host of topology.hosts) {
    if (hosts.has(host.name)) refuse(`two hosts are named "${host.name}"`);
    if (!/^[a-z][a-z0-9-]{0,62}$/.test(host.name)) refuse(`"${host.name}" is no host name`);
    hosts.add(host.name);
    const interfaces = new Set<string>();
    for (const link of host.interfaces) {
      checkName(link.name);
      if (interfaces.has(link.name)) refuse(`host "${host.name}" has two interfaces "${link.name}"`);
      interfaces.add(link.name);
      if (!segments.has(link.segment)) refuse(`interface "${link.name}" of "${host.name}" is on no segment`);
      const { delayMs, jitterMs = 0 } = link.line ?? { delayMs: 0 };
      if (!isDelay(delayMs) || !isDelay(jitterMs)) {
        refuse(`the line of "${link.name}" of "${host.name}" takes neither nothing nor up to ${MOST_DELAY_MS} ms`);
      }
    }
    if (host.router !== undefined && !(interfaces.has(host.router.wan) && interfaces.has(host.router.lan))) {
      refuse(`router "${host.name}" lacks its interface "${host.router.wan}" or "${host.router.lan}"`);
    }
  }
}

function isDelay(ms: number): boolean {
  return ms >= 0 && ms <= MOST_DELAY_MS;
}

/** Every address of a host, without prefix lengths. */
export function interfaceAddresses(host: HostSpec): readonly string[] {
  return host.interfaces.flatMap((link) => [link.ipv4 ?? [], link.ipv6 ?? []].flat().map(withoutLength));
}

export function withoutLength(address: InterfaceAddress): string {
  return address.replace(/\/\d+$/, "");
}

function checkName(name: string): void {
  if (!/^[a-z][a-z0-9-]*$/.test(name) || name.length > INTERFACE_NAME_LIMIT) refuse(`"${name}" is no interface name`);
}

function refuse(why: string): never {
  throw new LabTopologyInvalid(`Cannot build the lab: ${why}.`, { code: "lab-topology-invalid" });
}
