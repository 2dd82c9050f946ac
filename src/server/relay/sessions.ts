// Sessions: what entitles two machines to send each other packets through the relay.
import type { MachineId } from "../../proto/keys.ts";
import type { Leg, RelayPort, RelayPorts } from "./port.ts";

export interface RelaySession {
  readonly id: number;
  readonly kind: "wireguard";
  /** Who asked for it, then the other. */
  readonly ends: readonly [MachineId, MachineId];
  readonly startedAt: number;
  /** In the order of `ends`: what each of them sent. */
  readonly legs: readonly [Leg, Leg];
  /** Since when neither end has been online; null while one is. */
  abandonedAt: number | null;
}

/** Long enough for both ends to come back after the server's line was cut. */
export const ABANDONED_MS = 60_000;

function pairKey(a: MachineId, b: MachineId): string {
  return a < b ? `${a} ${b}` : `${b} ${a}`;
}

export class Sessions {
  readonly #ports: RelayPorts;
  readonly #byId = new Map<number, RelaySession>();
  readonly #byPair = new Map<string, RelaySession>();

  constructor(ports: RelayPorts) {
    this.#ports = ports;
  }

  get size(): number {
    return this.#byId.size;
  }

  get(id: number): RelaySession | null {
    return this.#byId.get(id) ?? null;
  }

  all(): Iterable<RelaySession> {
    return this.#byId.values();
  }

  of(machine: MachineId): RelaySession[] {
    const port = this.#ports.get(machine);
    if (port === null) return [];
    return [...port.legs.keys()].flatMap((id) => this.#byId.get(id) ?? []);
  }

  /** The pair's session, made if there is none. Whether policy allows it is the caller's question. */
  join(initiator: MachineId, peer: MachineId): { readonly session: RelaySession; readonly isNew: boolean } {
    const key = pairKey(initiator, peer);
    const known = this.#byPair.get(key);
    if (known !== undefined) return { session: known, isNew: false };
    const from = this.#ports.of(initiator);
    const to = this.#ports.of(peer);
    const session: RelaySession = {
      id: this.#freshId(),
      kind: "wireguard",
      ends: [initiator, peer],
      startedAt: Date.now(),
      legs: [legTo(to), legTo(from)],
      abandonedAt: null,
    };
    from.legs.set(session.id, session.legs[0]);
    to.legs.set(session.id, session.legs[1]);
    this.#byId.set(session.id, session);
    this.#byPair.set(key, session);
    return { session, isNew: true };
  }

  /** From here on no frame of it is forwarded. */
  end(session: RelaySession): void {
    if (!this.#byId.delete(session.id)) return;
    this.#byPair.delete(pairKey(...session.ends));
    for (const machine of session.ends) {
      const port = this.#ports.get(machine);
      if (port === null) continue;
      port.legs.delete(session.id);
      this.#ports.release(port);
    }
  }

  /** Those that have had both ends away for too long; call it every few seconds. */
  abandoned(isOnline: (machine: MachineId) => boolean, now: number = Date.now()): RelaySession[] {
    const over: RelaySession[] = [];
    for (const session of this.#byId.values()) {
      if (session.ends.some(isOnline)) session.abandonedAt = null;
      else if (session.abandonedAt === null) session.abandonedAt = now;
      else if (now - session.abandonedAt >= ABANDONED_MS) over.push(session);
    }
    return over;
  }

  /** Random, so that an id that is left over from another session hits nothing. */
  #freshId(): number {
    for (;;) {
      const id = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
      if (id !== 0 && !this.#byId.has(id)) return id;
    }
  }
}

function legTo(to: RelayPort): Leg {
  return { to, frames: 0, packets: 0, bytes: 0, dropped: 0 };
}
