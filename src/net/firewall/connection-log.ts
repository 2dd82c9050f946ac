// Which connections leave through an exit, kept by the kernel for a minute each until somebody reads them, and only where that was asked for.
import type { IpAddress } from "../../base/ip.ts";

/** How long the kernel remembers a destination that it saw; within it, more connections to it are the same entry. */
export const SEEN_S = 60;

export interface SeenConnection {
  /** The client's tunnel address. */
  readonly client: IpAddress;
  readonly protocol: "tcp" | "udp";
  readonly address: IpAddress;
  readonly port: number;
  /** Since the first packet. */
  readonly ageS: number;
}

export interface ConnectionLog {
  /** On: puts the rules in place, or mends them; what was seen stays. Off: takes them away. Idempotent. */
  apply(on: boolean, signal: AbortSignal): Promise<void>;
  /** How the loaded rules differ from what was last applied, as sentences. */
  verify(signal: AbortSignal): Promise<readonly string[]>;
  /** All that is remembered now, also what was read before. */
  read(signal: AbortSignal): Promise<readonly SeenConnection[]>;
}
