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
  /**
   * Every name is asked of these servers only. What is already so is not written, and a file that a person wrote meanwhile is left to
   * them; see `foreign`.
   */
  apply(policy: DnsPolicy, signal: AbortSignal): Promise<void>;
  /** Puts back what was before, byte for byte; what somebody else changed meanwhile stays theirs. */
  reset(signal: AbortSignal): Promise<void>;
}

export interface MachineDns extends SystemDns {
  /** The servers in a file that somebody else wrote over these, none where it names none; null where names are asked as wanted. */
  foreign(policy: Pick<DnsPolicy, "servers">): Promise<readonly string[] | null>;
}
