// Which DNS servers the machine asks while the tunnel is up, as an interface with one file for each mechanism.
import type { IpAddress } from "../../base/ip.ts";

export interface DnsPolicy {
  /** The tunnel's interface. */
  readonly interface: string;
  /** At least one. */
  readonly servers: readonly IpAddress[];
  /** DNS names, as a resolver takes them. */
  readonly searchDomains?: readonly string[];
}

export interface SystemDns {
  /** Every name is asked of these servers only. What is already so is not written. */
  apply(policy: DnsPolicy, signal: AbortSignal): Promise<void>;
  /** Puts back what was before, byte for byte; what somebody else changed meanwhile stays theirs. */
  reset(signal: AbortSignal): Promise<void>;
}
