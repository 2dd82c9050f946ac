// What a WireGuard device is asked for and tells: one interface with its keys, addresses and peers, applied whole.
import { HiggsError } from "../../base/errors.ts";
import type { Cidr, Endpoint, IpAddress } from "../../base/ip.ts";
import type { WireGuardKey, WireGuardSecret } from "../../proto/keys.ts";

export interface WireGuardPeer {
  readonly publicKey: WireGuardKey;
  /** Null leaves the endpoint as it is: unknown for a new peer, wherever it roamed to for a known one. */
  readonly endpoint: Endpoint | null;
  readonly allowedIps: readonly Cidr[];
  /** Seconds; 0 is off. */
  readonly keepaliveS: number;
}

export interface WireGuardConfig {
  readonly privateKey: WireGuardSecret;
  readonly listenPort: number;
  /** Each is given to the interface as /32 or /128. Those of IPv6 are left out on a machine without IPv6. */
  readonly addresses: readonly IpAddress[];
  /** Reached through the interface by the main table, and gone with it; none where rules of their own say what enters the tunnel. */
  readonly prefixes?: readonly Cidr[];
  /** Bytes, at least 1280: below it the kernel takes IPv6 off the interface. */
  readonly mtu: number;
  /** "as-they-are" leaves the peers of a device that is taken over alone, until the network has said who they should be. */
  readonly peers: readonly WireGuardPeer[] | "as-they-are";
}

export interface PeerStats extends PeerTransfer {
  readonly publicKey: WireGuardKey;
  readonly endpoint: Endpoint | null;
  /** Unix time in milliseconds, whole seconds; null before the first handshake. */
  readonly lastHandshakeMs: number | null;
}

/** What was encrypted for a peer and came from it: keepalives and handshakes too. */
export interface PeerTransfer {
  readonly rxBytes: number;
  readonly txBytes: number;
}

/** What went through the interface, all peers together. */
export interface DeviceCounters {
  readonly rxBytes: number;
  readonly txBytes: number;
  readonly rxPackets: number;
  readonly txPackets: number;
}

/** Who encrypts: the kernel's module, the wireguard-go inside this executable, or one that the machine has on PATH. */
export type Implementation =
  | { readonly kind: "kernel" }
  | { readonly kind: "carried" | "path"; readonly version: string; readonly path: string };

/** For a status line: `kernel`, or `carried wireguard-go 0.0.2026…`. */
export function implementationText(implementation: Implementation | null): string {
  if (implementation === null) return "none";
  if (implementation.kind === "kernel") return "kernel";
  return `${implementation.kind} wireguard-go ${implementation.version}`;
}

/** The first release of wireguard-go that keeps addresses in a pool; Debian 12's is of 2022. */
const POOLED_SINCE = "20230223";

/**
 * False for a wireguard-go on PATH that cuts IPv6 destinations to four bytes once it has sent over IPv4 (its conn/bind_std.go);
 * the one that higgs carries is mended (scripts/wireguard-patch.ts), and the kernel's never had it.
 */
export function takesBothFamilies(implementation: Implementation | null): boolean {
  if (implementation?.kind !== "path") return true;
  const date = /\b(20\d{6})/.exec(implementation.version)?.[1];
  return date !== undefined && date < POOLED_SINCE;
}

export interface WireGuardDevice {
  /**
   * Makes the device as wanted, or takes over one that lives (its sessions with unchanged peers go on). Resolves when
   * it is up and its port is bound. What it made itself is gone again when it throws.
   */
  apply(config: WireGuardConfig, signal: AbortSignal): Promise<void>;
  /**
   * Adds or changes one peer; the others are untouched. With a keepalive, a peer that has no living session and gets a
   * new endpoint is sent a handshake at once.
   */
  setPeer(peer: WireGuardPeer, signal: AbortSignal): Promise<void>;
  /** Where packets to the peer go from now on, until the peer is heard from elsewhere. Harmless for a peer that is not there. */
  setEndpoint(publicKey: WireGuardKey, endpoint: Endpoint, signal: AbortSignal): Promise<void>;
  /** Harmless for a peer that is not there. */
  removePeer(publicKey: WireGuardKey, signal: AbortSignal): Promise<void>;
  /** Starts the tool `wg`: a few milliseconds. */
  stats(signal: AbortSignal): Promise<readonly PeerStats[]>;
  /** Reads one file: cheap enough for every tick. Null when there is no device. */
  counters(): Promise<DeviceCounters | null>;
  /** By WireGuard's own count: a tenth of a millisecond of wireguard-go, and two for the kernel's, by the tool `wg`. */
  transfers(signal: AbortSignal): Promise<ReadonlyMap<WireGuardKey, PeerTransfer>>;
  /**
   * Mark, port, key and peers as one value to be compared, at the cost of `transfers`; null before `apply`, and where there is no
   * device any more.
   */
  settings(signal: AbortSignal): Promise<string | null>;
  /** Which prefixes lead to each peer. Starts the tool `wg`. */
  prefixes(signal: AbortSignal): Promise<ReadonlyMap<WireGuardKey, readonly Cidr[]>>;
  /** How the device, its addresses and the routes to it differ from what is wanted, as sentences; of the peers nothing. */
  verify(config: WireGuardConfig, signal: AbortSignal): Promise<readonly string[]>;
  /** Null before `apply`, and after `reset`. */
  implementation(): Implementation | null;
  /** Takes the device away, whoever made it, by its fixed name; harmless twice. An interface of that name that is no WireGuard stays. */
  reset(signal: AbortSignal): Promise<void>;
}

/** No kernel module, nothing carried and nothing on PATH, or what was asked for by name is not to be had. */
export class WireGuardUnavailable extends HiggsError {
  override readonly name = "WireGuardUnavailable";
}

/** An interface with our fixed name is there and is no WireGuard. */
export class InterfaceTaken extends HiggsError {
  override readonly name = "InterfaceTaken";
}

/** The UDP port that WireGuard should listen on belongs to somebody else. */
export class ListenPortBusy extends HiggsError {
  override readonly name = "ListenPortBusy";
}

/** A tool or wireguard-go did not do what the device needs. */
export class WireGuardFailed extends HiggsError {
  override readonly name = "WireGuardFailed";
}
