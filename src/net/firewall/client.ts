// What a client's firewall does in each of its situations, and the interface that puts it in place.
import type { Endpoint, IpAddress } from "../../base/ip.ts";

/** One variant for each situation that is legal; the lockdown's situations will be variants of their own. */
export type ClientFirewallPolicy = {
  /** The tunnel is up; nothing is blocked, and answers to what goes past the tunnel survive a strict reverse path filter. */
  readonly kind: "connected";
  /** The tunnel's interface. */
  readonly interface: string;
  /** The client's own tunnel addresses; what is sent to them by another interface is dropped (CVE-2019-14899). */
  readonly addresses: readonly IpAddress[];
  /** Server and proxy, where the carrier's TCP goes past the tunnel. */
  readonly carrier: readonly Endpoint[];
  /** The user whose carrier it is. */
  readonly uid: number;
  /** The discovery socket's own port, where there is one. */
  readonly discoveryPort?: number;
};

export interface ClientFirewall {
  /** Replaces the whole table in one transaction; does nothing when the table is as wanted. */
  apply(policy: ClientFirewallPolicy, signal: AbortSignal): Promise<void>;
  /** How the loaded table differs from the policy last applied, as sentences. */
  verify(signal: AbortSignal): Promise<readonly string[]>;
  reset(signal: AbortSignal): Promise<void>;
}
