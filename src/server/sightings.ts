// Where the STUN responder has seen machines that proved who they were: a candidate that is among it is no invention.
import { createHmac, randomBytes } from "node:crypto";
import { toBase64Url } from "../base/bytes.ts";
import { type Endpoint, formatEndpoint } from "../base/ip.ts";
import type { MachineId } from "../proto/keys.ts";

const FRESH_MS = 60_000;
/** Two ports of the server in two families, those of some side ports, and as many again after a change of network. */
const MOST_PER_MACHINE = 24;

export class Sightings {
  /** Of this start: whatever was given out before counts no more. */
  readonly #secret = randomBytes(32);
  readonly #seen = new Map<string, Map<string, number>>();

  /** By which a machine's STUN requests are known; 32 bytes that depend on nothing that has to be kept. */
  keyOf(user: string): Uint8Array {
    return createHmac("sha256", this.#secret).update(user).digest();
  }

  credential(machine: MachineId): { readonly user: string; readonly key: string } {
    return { user: machine, key: toBase64Url(this.keyOf(machine)) };
  }

  /** The request was made with the machine's key. */
  note(user: string, endpoint: Endpoint, now: number = Date.now()): void {
    const places = this.#seen.get(user) ?? new Map<string, number>();
    this.#seen.set(user, places);
    const text = formatEndpoint(endpoint);
    places.delete(text);
    places.set(text, now);
    for (const oldest of places.keys()) {
      if (places.size <= MOST_PER_MACHINE) break;
      places.delete(oldest);
    }
  }

  wasSeen(machine: MachineId, endpoint: string, now: number = Date.now()): boolean {
    const at = this.#seen.get(machine)?.get(endpoint);
    return at !== undefined && now - at <= FRESH_MS;
  }

  forget(machine: MachineId): void {
    this.#seen.delete(machine);
  }
}
