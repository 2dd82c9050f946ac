// Peers on narrow paths are sent smaller packets; all others keep the device's size.
import { SerialQueue } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import type { Cidr } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { PeerMtus } from "../net/routes/peer-mtu.ts";
import { FULL_BYTES } from "./path-check.ts";

export interface PeerSize {
  readonly allowedIps: readonly Cidr[];
  /** Largest UDP payload of its path; null for the WebSocket, which takes any, and 0 while it is not known. */
  readonly sizeBytes: number | null;
}

/** What WireGuard adds to an inner packet: header of 16 bytes, tag of 16. */
const WIREGUARD_BYTES = 32;

/** WireGuard fills inner packets up to a multiple of 16, as far as the device's own size allows: a larger one would not fit once filled. */
function innerBytes(sizeBytes: number): number {
  return Math.floor((sizeBytes - WIREGUARD_BYTES) / 16) * 16;
}

export class PeerSizes {
  readonly #deps: { readonly peerMtus: PeerMtus; readonly log: Logger };
  readonly #signal: AbortSignal;
  readonly #queue = new SerialQueue();
  #before = "[]";

  constructor(deps: { readonly peerMtus: PeerMtus; readonly log: Logger }, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
  }

  fit(all: readonly PeerSize[]): void {
    const peers = all.flatMap(({ allowedIps, sizeBytes }) => {
      if (sizeBytes === null || sizeBytes === 0 || sizeBytes >= FULL_BYTES || allowedIps.length === 0) return [];
      return [{ prefixes: allowedIps, mtu: innerBytes(sizeBytes) }];
    });
    const text = JSON.stringify(peers);
    if (text === this.#before) return;
    this.#before = text;
    this.#queue
      .run(() => this.#deps.peerMtus.apply(peers, this.#signal))
      .catch((thrown: unknown) => {
        if (!this.#signal.aborted) this.#deps.log.warn({ reason: errorText(thrown) }, "packets not made smaller");
      });
  }

  async idle(): Promise<void> {
    await this.#queue.idle();
  }
}
