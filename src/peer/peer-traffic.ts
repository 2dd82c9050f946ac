// Which peers packets went to and came from since the last look: what one of them is busy with says nothing of another.
import type { DeviceCounters, PeerTransfer, WireGuardDevice } from "../net/wg/device.ts";
import type { WireGuardKey } from "../proto/keys.ts";

export interface Traffic {
  readonly sent: boolean;
  readonly received: boolean;
}

export const NO_TRAFFIC: Traffic = { sent: false, received: false };
/** Asking WireGuard for each peer takes a tenth of a millisecond of wireguard-go, and two of a kernel's, by way of `wg`. */
const APART_MS = 150;

export class PeerTraffic {
  readonly #device: Pick<WireGuardDevice, "counters" | "transfers">;
  readonly #signal: AbortSignal;
  #counters: DeviceCounters | null = null;
  #transfers: ReadonlyMap<WireGuardKey, PeerTransfer> = new Map();
  /** Something went through the device that was not laid at a peer's door yet. */
  #isOpen = true;
  #askedAt = Number.NEGATIVE_INFINITY;

  constructor(device: Pick<WireGuardDevice, "counters" | "transfers">, signal: AbortSignal) {
    this.#device = device;
    this.#signal = signal;
  }

  /** `peers`: all of the device. One alone has all its traffic, which costs the reading of one file. */
  async look(peers: readonly WireGuardKey[], now: number): Promise<(peer: WireGuardKey) => Traffic> {
    const before = this.#counters;
    const counters = await this.#device.counters();
    this.#counters = counters;
    const isKnown = counters !== null && before !== null;
    const sent = isKnown && counters.txPackets !== before.txPackets;
    const received = isKnown && counters.rxPackets !== before.rxPackets;
    if (peers.length <= 1) return () => ({ sent, received });
    this.#isOpen ||= sent || received;
    if (!this.#isOpen || now - this.#askedAt < APART_MS) return () => NO_TRAFFIC;
    this.#askedAt = now;
    const old = this.#transfers;
    this.#transfers = await this.#device.transfers(this.#signal);
    this.#isOpen = false;
    return (peer) => difference(old.get(peer), this.#transfers.get(peer));
  }
}

/** Nothing of one that was not there before. */
function difference(before: PeerTransfer | undefined, now: PeerTransfer | undefined): Traffic {
  if (before === undefined || now === undefined) return NO_TRAFFIC;
  return { sent: now.txBytes !== before.txBytes, received: now.rxBytes !== before.rxBytes };
}
