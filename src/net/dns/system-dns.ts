// Which DNS servers the machine asks while the tunnel is up, and the choice of the mechanism that sets them.
import type { IpAddress } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";

export interface DnsPolicy {
  /** The tunnel's interface. */
  readonly interface: string;
  /** At least one. */
  readonly servers: readonly IpAddress[];
  readonly searchDomains?: readonly string[];
}

export interface SystemDns {
  /** Every name is asked of these servers only. What is already so is not written. */
  apply(policy: DnsPolicy, signal: AbortSignal): Promise<void>;
  /** Puts back what was before, byte for byte; what somebody else changed meanwhile stays theirs. */
  reset(signal: AbortSignal): Promise<void>;
}

export interface SystemDnsDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
  /** The role's state folder. */
  readonly stateDir: string;
  /** Default /etc/resolv.conf. */
  readonly resolvConfPath?: string;
}

/** systemd-resolved where it runs, /etc/resolv.conf where programs do not ask resolved through it; decided at each `apply`. */
export function systemDns(deps: SystemDnsDeps): SystemDns {
  throw new Error(`Cannot set DNS on "${deps.identifiers.interface}" yet.`);
}
