// What nodes say of their own load, as of their last heartbeat; in memory only.
import type { HeartbeatRequest } from "../proto/api-nodes.ts";
import type { MachineId } from "../proto/keys.ts";

export interface Load {
  readonly at: number;
  readonly isDegraded: boolean;
  readonly metrics: NonNullable<HeartbeatRequest["metrics"]>;
}

/** Seconds between heartbeats; a node in trouble is heard more often. */
const CALM_S = 30;
const DEGRADED_S = 10;
/** Three heartbeats missed: what was said is too old to choose by. */
const STALE_MS = 3 * CALM_S * 1000;

/** In percent. */
const BUSY = 90;
const LOSSY = 10;

export function isDegraded(heartbeat: HeartbeatRequest): boolean {
  const { cpuUsage = 0, memoryUsage = 0, packetLoss = 0 } = heartbeat.metrics ?? {};
  return (heartbeat.status ?? "online") !== "online" || cpuUsage > BUSY || memoryUsage > BUSY || packetLoss > LOSSY;
}

export class Loads {
  readonly #loads = new Map<MachineId, Load>();

  /** Returns the seconds until the next heartbeat is due. */
  note(machine: MachineId, heartbeat: HeartbeatRequest, now: number = Date.now()): number {
    const load = { at: now, isDegraded: isDegraded(heartbeat), metrics: heartbeat.metrics ?? {} };
    this.#loads.set(machine, load);
    return load.isDegraded ? DEGRADED_S : CALM_S;
  }

  /** Null when nothing was heard, or too long ago. */
  of(machine: MachineId, now: number = Date.now()): Load | null {
    const load = this.#loads.get(machine);
    return load === undefined || now - load.at > STALE_MS ? null : load;
  }

  forget(machine: MachineId): void {
    this.#loads.delete(machine);
  }
}
