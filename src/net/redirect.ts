// Moving a tunnel that carries traffic: what WireGuard still sends by the old path leaves by the new one, and a path given up is dropped on arrival.
import { HiggsError } from "../base/errors.ts";
import type { Endpoint, IpAddress } from "../base/ip.ts";

export interface Diversion {
  readonly from: Endpoint;
  readonly to: Endpoint;
  /**
   * Our address on the link that leads there, where it is another than WireGuard's packets to `from` have: theirs was chosen for that
   * link, and an answer to it would go the old way, or nowhere.
   */
  readonly source?: IpAddress | undefined;
}

/**
 * Both ends of a WireGuard tunnel follow every packet back to where it came from, so telling them another endpoint does not
 * move them while packets are under way on the old path. STUN messages are never redirected and never dropped.
 */
export interface RedirectPolicy {
  readonly wireGuardPort: number;
  /** What WireGuard sends to `from` goes to `to`, of the same family; `from` is named once. Packets from either are let in. */
  readonly redirects: readonly Diversion[];
  /** Peers that are reached by another port than WireGuard's. */
  readonly sides?: readonly SidePath[];
  /** WireGuard packets from here never arrive: paths that were given up and not confirmed since. */
  readonly dropFrom: readonly Endpoint[];
}

/** A path whose end here is a side port (net/discovery): what the peer sends there is WireGuard's, STUN messages excepted. */
export interface SidePath {
  readonly port: number;
  readonly peer: Endpoint;
  /** True: what WireGuard sends to the peer leaves from there. Only one of a peer's sides may say so. */
  readonly leaves: boolean;
}

export interface Redirect {
  /**
   * Replaces the whole table in one transaction; a policy that wants nothing has no table. The same policy again mends
   * what somebody else did to it. Throws RedirectRefused.
   */
  apply(policy: RedirectPolicy, signal: AbortSignal): Promise<void>;
  reset(signal: AbortSignal): Promise<void>;
}

/** No rule can do that: an IPv4 packet does not become an IPv6 packet. */
export class RedirectRefused extends HiggsError {
  override readonly name = "RedirectRefused";
}
