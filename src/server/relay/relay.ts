// The relay: looks a frame's session up and passes the frame on unread, or drops and counts it.
import { CLOSE } from "../../proto/control.ts";
import type { MachineId } from "../../proto/keys.ts";
import { countWireGuardPackets, frameSession } from "../../proto/relay-frame.ts";
import { type Socket, type SocketEvents, shut } from "../socket.ts";
import { RelayPort, RelayPorts } from "./port.ts";

/**
 * What may wait for one slow reader before its frames are dropped: four full frames, about 20 ms at 100 Mbit/s. TCP has its own buffers
 * beside it; more here would only be delay for the packets behind.
 */
export const MOST_BUFFERED_BYTES = 262_144;

/** Why a frame was not passed on. */
export type DropReason =
  /** No data frame, or text. */
  | "malformed"
  /** A session that was not granted to this connection. */
  | "no-session"
  /** Something in it does not look like WireGuard. */
  | "not-wireguard"
  /** The other end has no connection here. */
  | "offline"
  /** The other end reads too slowly. */
  | "slow"
  /** An end of the session has used up its quota. */
  | "quota"
  /** From a connection that a newer one of the same machine replaced. */
  | "replaced";

export interface RelayCounters {
  frames: number;
  packets: number;
  bytes: number;
  readonly dropped: Record<DropReason, number>;
}

export class Relay {
  readonly ports = new RelayPorts();
  readonly counters: RelayCounters = {
    frames: 0,
    packets: 0,
    bytes: 0,
    dropped: { malformed: 0, "no-session": 0, "not-wireguard": 0, offline: 0, slow: 0, quota: 0, replaced: 0 },
  };
  connections = 0;

  /** The events of a new connection of a machine that has proven who it is. */
  accept(machine: MachineId): SocketEvents {
    return new RelayConnection(this, machine);
  }

  /** Cuts a machine's connection. */
  cut(machine: MachineId, code: number, reason: string): void {
    const port = this.ports.get(machine);
    if (port?.socket == null) return;
    const socket = port.socket;
    port.socket = null;
    shut(socket, code, reason);
    this.ports.release(port);
  }
}

class RelayConnection implements SocketEvents {
  readonly #relay: Relay;
  readonly #machine: MachineId;
  #port: RelayPort;
  #socket: Socket | null = null;

  constructor(relay: Relay, machine: MachineId) {
    this.#relay = relay;
    this.#machine = machine;
    // Nobody's, until the connection is open.
    this.#port = new RelayPort(machine);
  }

  open(socket: Socket): void {
    this.#socket = socket;
    this.#relay.connections++;
    this.#port = this.#relay.ports.of(this.#machine);
    const before = this.#port.socket;
    this.#port.socket = socket;
    if (before !== null) shut(before, CLOSE.replaced, "a newer connection took over");
  }

  message(data: string | Uint8Array<ArrayBuffer>): void {
    const { counters } = this.#relay;
    const port = this.#port;
    if (port.socket !== this.#socket) {
      counters.dropped.replaced++;
      return;
    }
    if (typeof data === "string") {
      counters.dropped.malformed++;
      return;
    }
    const session = frameSession(data);
    const leg = port.legs.get(session);
    if (leg === undefined) {
      counters.dropped[session < 0 ? "malformed" : "no-session"]++;
      return;
    }
    const packets = countWireGuardPackets(data);
    if (packets < 0) {
      leg.dropped++;
      counters.dropped["not-wireguard"]++;
      return;
    }
    if (leg.isWithheld) {
      leg.dropped++;
      counters.dropped.quota++;
      return;
    }
    const to = leg.to.socket;
    if (to === null) {
      leg.dropped++;
      counters.dropped.offline++;
      return;
    }
    if (to.getBufferedAmount() > MOST_BUFFERED_BYTES || to.send(data) === 0) {
      leg.dropped++;
      counters.dropped.slow++;
      return;
    }
    leg.frames++;
    leg.packets += packets;
    leg.bytes += data.length;
    counters.frames++;
    counters.packets += packets;
    counters.bytes += data.length;
  }

  drain(): void {
    // Nothing waits here for a reader: what did not fit was dropped.
  }

  close(): void {
    this.#relay.connections--;
    if (this.#port.socket === this.#socket) this.#port.socket = null;
    this.#relay.ports.release(this.#port);
  }
}
