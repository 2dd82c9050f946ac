// Whom a node's tunnel holds: the machines in session, and for a minute those whose session went with the server that granted it.
import type { Cidr, IpAddress } from "../base/ip.ts";
import type { Session } from "../proto/control.ts";
import type { MachineId, WireGuardKey } from "../proto/keys.ts";
import type { Membership } from "../peer/membership.ts";
import { allowedPrefixes } from "../peer/trust.ts";

export interface SessionPeer {
  readonly id: MachineId;
  readonly name: string;
  readonly wireGuard: WireGuardKey;
  readonly allowedIps: readonly Cidr[];
  /** All that it may send from. */
  readonly addresses: readonly IpAddress[];
  readonly session: Session | null;
}

/**
 * A server that restarts knows no sessions until they are asked for again. A peer that was taken off WireGuard meanwhile would
 * have lost its keys, and its other end would not notice for fifteen seconds. Without a session nothing passes by the relay.
 */
const LINGER_MS = 60_000;

export class SessionPeers {
  readonly #onExpired: () => void;
  readonly #lingering = new Map<MachineId, ReturnType<typeof setTimeout>>();
  #inSession: readonly MachineId[] = [];
  /** From when the server was missed until the sessions that went with it were. */
  #serverWasLost = false;

  constructor(onExpired: () => void) {
    this.#onExpired = onExpired;
  }

  /** Only machines that are known and trusted. One whose session was ended, or that is revoked, is gone at once. */
  of(membership: Pick<Membership, "sessions" | "map" | "control">): readonly SessionPeer[] {
    const { sessions, map } = membership;
    if (!membership.control.online) this.#serverWasLost = true;
    const ended = this.#inSession.filter((id) => !sessions.has(id));
    if (this.#serverWasLost && ended.length > 0) {
      for (const id of ended) this.#linger(id);
      this.#serverWasLost = false;
    }
    this.#inSession = [...sessions.keys()];
    for (const id of this.#inSession) this.#forget(id);
    return [...this.#inSession, ...this.#lingering.keys()].flatMap((id) => {
      const peer = map.get(id);
      if (peer === undefined) return [];
      const { wireGuard, addresses } = peer.machine;
      const allowedIps = allowedPrefixes(peer.machine, []);
      return [{ id, name: peer.name, wireGuard, allowedIps, addresses, session: sessions.get(id) ?? null }];
    });
  }

  [Symbol.dispose](): void {
    for (const id of [...this.#lingering.keys()]) this.#forget(id);
  }

  #linger(id: MachineId): void {
    const timer = setTimeout(() => {
      this.#lingering.delete(id);
      this.#onExpired();
    }, LINGER_MS);
    this.#lingering.set(id, timer);
  }

  #forget(id: MachineId): void {
    clearTimeout(this.#lingering.get(id));
    this.#lingering.delete(id);
  }
}
