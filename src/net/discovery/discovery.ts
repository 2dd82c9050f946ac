// Discovery: STUN messages from the very UDP port that the world knows as WireGuard's, and the interface of whoever shares it out.
import { HiggsError } from "../../base/errors.ts";
import type { Endpoint, Family } from "../../base/ip.ts";
import type { Service } from "../../base/service.ts";

/** "nft": the kernel shares WireGuard's own port out. "bridge": a socket of ours has the port, and hands packets on to WireGuard. */
export type DiscoveryMechanism = "nft" | "bridge";

export interface DiscoveryOptions {
  /** Where the local WireGuard listens; it is up and bound. */
  readonly wireGuardPort: number;
  /**
   * The port that the world sees. With "nft" it is WireGuard's own, whatever is said here; with "bridge" it is ours, and
   * WireGuard listens on another. Default for "bridge": one that the kernel chooses.
   */
  readonly publicPort?: number;
  /** A STUN message, from whom it came. The bytes are the receiver's to keep. Called from the socket: must not throw. */
  readonly onMessage: (bytes: Uint8Array, from: Endpoint) => void;
}

export interface Discovery extends Service {
  readonly mechanism: DiscoveryMechanism;
  /** The socket's own number, by which rules of routing and firewall know it: it goes past the tunnel. */
  readonly port: number;
  /** From where packets seem to come before any NAT: part of every host candidate. */
  readonly publicPort: number;
  /** Those that this machine has a socket for. */
  readonly families: readonly Family[];
  /**
   * One datagram that is never cut into fragments. False when it was not sent: no such family, no route, a full buffer, or
   * larger than the interface takes.
   */
  send(bytes: Uint8Array, to: Endpoint): boolean;
  /** For what WireGuard handed a bridge: leaves as if WireGuard had sent it. How many were sent. */
  sendMany(packets: readonly Uint8Array[], to: Endpoint): number;
  /**
   * "bridge": WireGuard's packets from there go to `deliver`, those of one turn of the event loop together; null, and they are
   * dropped on arrival, as those from any place that was never named. "nft": the kernel hands all of them to WireGuard, and
   * dropping is the redirect's work (net/redirect.ts).
   */
  accept(from: Endpoint, deliver: Deliver | null): void;
  /**
   * Another UDP port of ours, which the world sees as itself and to which routers give a mapping of its own; IPv4 only, as IPv6
   * has no NAT to be dealt with. Throws DiscoveryFailed.
   */
  openSide(onDatagram: (bytes: Uint8Array, from: Endpoint) => void): Promise<SidePort>;
  /** Puts the rules back where somebody flushed them. True when there was something to mend. */
  repair(signal: AbortSignal): Promise<boolean>;
  /** Datagrams that were neither a STUN message nor of a peer's address, and those that the kernel did not take. */
  readonly dropped: number;
}

/**
 * A port beside WireGuard's. Whatever arrives is its owner's, unless the redirect (net/redirect.ts) hands a peer's packets to
 * WireGuard before that.
 */
export interface SidePort extends Service {
  readonly port: number;
  /** Never cut into fragments. False when it was not sent. */
  send(bytes: Uint8Array, to: Endpoint): boolean;
  /** How many were sent. */
  sendMany(packets: readonly Uint8Array[], to: Endpoint): number;
}

/** The packets are the receiver's to keep. Must not throw. */
export type Deliver = (packets: readonly Uint8Array[]) => void;

/** One for each role and mechanism. */
export interface DiscoveryPort {
  readonly mechanism: DiscoveryMechanism;
  /** Takes over what an earlier process left. Throws DiscoveryFailed. */
  open(options: DiscoveryOptions, signal: AbortSignal): Promise<Discovery>;
}

/** The port cannot be shared: it is taken, or nft refuses the rules. */
export class DiscoveryFailed extends HiggsError {
  override readonly name = "DiscoveryFailed";
}
