// A machine's place at the relay: its connection, if it has one, and the sessions that were granted to it.
import type { MachineId } from "../../proto/keys.ts";
import type { Socket } from "../socket.ts";

/** One direction of a session: what its machine sends, and to whom that goes. */
export interface Leg {
  readonly to: RelayPort;
  frames: number;
  packets: number;
  bytes: number;
  dropped: number;
  /** Nothing is passed on for now: an end has used up its quota. */
  isWithheld: boolean;
}

/** Lives as long as the machine has a connection or a session; a new connection takes the place of the old one. */
export class RelayPort {
  readonly machine: MachineId;
  /** By session id. */
  readonly legs = new Map<number, Leg>();
  socket: Socket | null = null;

  constructor(machine: MachineId) {
    this.machine = machine;
  }
}

export class RelayPorts {
  readonly #ports = new Map<MachineId, RelayPort>();

  of(machine: MachineId): RelayPort {
    let port = this.#ports.get(machine);
    if (port === undefined) {
      port = new RelayPort(machine);
      this.#ports.set(machine, port);
    }
    return port;
  }

  get(machine: MachineId): RelayPort | null {
    return this.#ports.get(machine) ?? null;
  }

  all(): Iterable<RelayPort> {
    return this.#ports.values();
  }

  /** Lets go of a port that nothing uses any more. */
  release(port: RelayPort): void {
    if (port.socket === null && port.legs.size === 0) this.#ports.delete(port.machine);
  }
}
