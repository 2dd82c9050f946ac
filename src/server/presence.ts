// Who is online, from where, and what its exit says of itself: in memory only, rebuilt by reconnecting.
import type { IpAddress } from "../base/ip.ts";
import type { ExitState } from "../proto/control.ts";
import type { MachineId } from "../proto/keys.ts";

export interface MachinePresence {
  readonly online: boolean;
  /** Where its control connection came from last; null before its first. */
  readonly address: IpAddress | null;
  readonly exit: ExitState | null;
  /** Unix milliseconds of the last sign of life; null before the first since this start. */
  readonly seenAt: number | null;
}

const ABSENT: MachinePresence = { online: false, address: null, exit: null, seenAt: null };

function sameExit(a: ExitState | null, b: ExitState | null): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Each change says whether it changed anything that others are shown. */
export class Presence {
  readonly #machines = new Map<MachineId, MachinePresence>();
  #online = 0;

  get online(): number {
    return this.#online;
  }

  of(machine: MachineId): MachinePresence {
    return this.#machines.get(machine) ?? ABSENT;
  }

  arrived(machine: MachineId, address: IpAddress | null): boolean {
    const before = this.of(machine);
    if (!before.online) this.#online++;
    this.#machines.set(machine, { ...before, online: true, address, seenAt: Date.now() });
    return !before.online || before.address !== address;
  }

  /**
   * Nothing vouches for its exit any more: it is not ready until the machine says so anew. That it offers one, and for which
   * families, stays, so that a client whose tunnel still carries does not change its routes for a control stream that broke.
   */
  left(machine: MachineId): boolean {
    const before = this.of(machine);
    if (!before.online) return false;
    this.#online--;
    const exit = before.exit === null ? null : { ...before.exit, ready: false, missing: [] };
    this.#machines.set(machine, { ...before, online: false, exit, seenAt: Date.now() });
    return true;
  }

  seen(machine: MachineId): void {
    this.#machines.set(machine, { ...this.of(machine), seenAt: Date.now() });
  }

  setExit(machine: MachineId, exit: ExitState | null): boolean {
    const before = this.of(machine);
    if (sameExit(before.exit, exit)) return false;
    this.#machines.set(machine, { ...before, exit, seenAt: Date.now() });
    return true;
  }

  forget(machine: MachineId): void {
    if (this.of(machine).online) this.#online--;
    this.#machines.delete(machine);
  }
}
