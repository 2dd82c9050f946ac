// Which of a client's traffic enters the tunnel, and the interface that makes the kernel route it so.
import type { Cidr, Endpoint } from "../../base/ip.ts";

export interface ClientRoutesPolicy {
  /** The tunnel's interface; it is up before `apply`. */
  readonly interface: string;
  /**
   * "tunnel": everything goes through the tunnel. "refuse": everything is answered "no route" at once, so that applications
   * fall back to the other family: for an exit without IPv6. "own": the machine's own routes, for a client without an exit.
   */
  readonly families: {
    readonly 4: "tunnel" | "own";
    readonly 6: "tunnel" | "refuse" | "own";
  };
  /** Reached through the tunnel alone, whatever holds for the rest of their family. */
  readonly tunnelPrefixes: readonly Cidr[];
  /** Server and proxy: the carrier's TCP goes past the tunnel that it carries, for this user alone. */
  readonly carrier: readonly Endpoint[];
  readonly uid: number;
  /** The discovery socket's own port, where there is one. */
  readonly discoveryPort?: number;
  /** Left to the main table: bridges without an uplink, and the LAN when it is allowed. */
  readonly throwPrefixes: readonly Cidr[];
}

export interface ClientRoutes {
  /**
   * Compares with what is there and changes only what differs, in an order in which nothing passes outside on the way.
   * Resolves with true when something was changed. A kernel without IPv6 has only the IPv4 half.
   */
  apply(policy: ClientRoutesPolicy, signal: AbortSignal): Promise<boolean>;
  /** How rules and routes differ from what was last applied, as sentences; none before. */
  verify(signal: AbortSignal): Promise<readonly string[]>;
  reset(signal: AbortSignal): Promise<void>;
}
