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
  /** In the order of `ends`: since when each has been away; null while it is online. */
  readonly awaySince: [number | null, number | null];
}

/**
 * Long enough for an end to come back after its line was cut, or its machine was started anew; then the other end need not keep what
 * it holds for it. Who still wants the session asks for a new one.
 */
export const ABANDONED_MS = 180_000;

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
      awaySince: [null, null],
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

  /** Those of which one end has been away for too long; call it every few seconds. */
  abandoned(isOnline: (machine: MachineId) => boolean, now: number = Date.now()): RelaySession[] {
    const over: RelaySession[] = [];
    for (const session of this.#byId.values()) {
      let isOver = false;
      for (const [i, machine] of session.ends.entries()) {
        const since = isOnline(machine) ? null : (session.awaySince[i] ?? now);
        session.awaySince[i] = since;
        isOver ||= since !== null && now - since >= ABANDONED_MS;
      }
      if (isOver) over.push(session);
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
  return { to, frames: 0, packets: 0, bytes: 0, dropped: 0, isWithheld: false };
}
