// What a client's firewall does in each of its situations, and the interface that puts it in place.
import type { Cidr, Endpoint, IpAddress } from "../../base/ip.ts";

/** What higgs itself sends past the tunnel that it carries, and nobody else may. */
export interface OwnTraffic {
  /** The user whose carrier and discovery they are. */
  readonly uid: number;
  /** Server and proxy: the carrier's TCP. */
  readonly carrier: readonly Endpoint[];
  /** WireGuard's own UDP port, which discovery's messages have too once they leave. */
  readonly wireGuardPort: number;
  /** The discovery socket's own port, where there is one. */
  readonly discoveryPort?: number;
  /** The gateways, which are asked for a port of theirs. */
  readonly routers: readonly IpAddress[];
}

/** What stays reachable beside the tunnel. */
export interface Nearby {
  /** Bridges without an uplink: containers and virtual machines of this host. */
  readonly bridges: readonly string[];
  /** The LAN's own prefixes and multicast; null where the LAN is not allowed. */
  readonly lan: readonly Cidr[] | null;
}

export interface TunnelEnd {
  readonly interface: string;
  /** The client's own tunnel addresses; what is sent to them by another interface is dropped (CVE-2019-14899). */
  readonly addresses: readonly IpAddress[];
}

/** One variant for each situation that is legal, each with exactly its data. docs/security-states.md is the table of them. */
export type ClientFirewallPolicy =
  /** Nothing of ours: without lockdown, before and after a connection. */
  | { readonly kind: "disconnected" }
  /** Under lockdown, until an exit answers; without lockdown a client that connects leaves the firewall as it is. */
  | { readonly kind: "connecting"; readonly tunnel: TunnelEnd; readonly own: OwnTraffic; readonly near: Nearby }
  | { readonly kind: "connected"; readonly tunnel: TunnelEnd; readonly own: OwnTraffic; readonly near: Nearby }
  /** Without lockdown and without an exit: nothing is closed, and what goes past the tunnel is told by its mark. */
  | { readonly kind: "exitless"; readonly tunnel: TunnelEnd; readonly own: OwnTraffic }
  /** While DNS, device and routes are put back. */
  | { readonly kind: "disconnecting"; readonly near: Nearby }
  /** Lockdown, and no connection: it outlives the process and, by the early unit, a boot. */
  | { readonly kind: "blocked"; readonly near: Nearby };

export interface ClientFirewallWanted {
  readonly policy: ClientFirewallPolicy;
  /** Interfaces on which frames that bypass the IP layer are stopped too (AF_PACKET); none unless a person asked for it. */
  readonly egress: readonly string[];
}

export interface ClientFirewall {
  /**
   * Replaces the whole table in one transaction and reads it back; does nothing when the table is as wanted.
   * Throws ToolFailed, or FirewallNotVerified when the kernel has something else than what it was given.
   */
  apply(wanted: ClientFirewallWanted, signal: AbortSignal): Promise<void>;
  /** True when a table is loaded that closes, whoever loaded it: a process before this one may have died while it was in force. */
  closes(signal: AbortSignal): Promise<boolean>;
  /** How the loaded tables differ from what was last applied, as sentences. */
  verify(signal: AbortSignal): Promise<readonly string[]>;
  reset(signal: AbortSignal): Promise<void>;
}
