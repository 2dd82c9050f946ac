// Sends checks to guessed ports of peers: never more than 512 in a second, all peers of this machine together.
import type { IpAddress } from "../base/ip.ts";
import type { MachineId } from "../proto/keys.ts";

/** 476 in a second: timers are never early. */
const SLOT_MS = 21;
const PER_SLOT = 10;
/** Peers at once; they share the pace, and with more of them nobody would be found in time. */
const MOST_RUNS = 4;
/** In vain; another network, here or there, is another matter. */
const AGAIN_MS = 240_000;
const MOST_REMEMBERED = 1_024;

export interface Seeking {
  readonly peer: MachineId;
  readonly address: IpAddress;
  readonly ports: Iterator<number>;
  readonly send: (port: number) => void;
  /** The peer was found, or is of no interest any more. */
  readonly isOver: () => boolean;
}

interface Run {
  readonly of: Seeking;
  sent: number;
  readonly end: (sent: number) => void;
}

export class PortSeeker {
  readonly #runs: Run[] = [];
  readonly #inVain = new Map<MachineId, { readonly at: number; readonly address: IpAddress }>();
  #timer: ReturnType<typeof setTimeout> | null = null;
  #turn = 0;

  maySeek(peer: MachineId, address: IpAddress): boolean {
    const last = this.#inVain.get(peer);
    if (this.#runs.length >= MOST_RUNS || this.#runs.some((run) => run.of.peer === peer)) return false;
    return last === undefined || last.address !== address || performance.now() - last.at > AGAIN_MS;
  }

  /** Resolves with how many were sent, when the ports are used up or it is over. */
  seek(seeking: Seeking): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#runs.push({ of: seeking, sent: 0, end: resolve });
    this.#timer ??= setTimeout(() => this.#slot(), 0);
    return promise;
  }

  /** What was in vain may be otherwise now. */
  networkChanged(): void {
    this.#inVain.clear();
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    for (const run of this.#runs.splice(0)) run.end(run.sent);
  }

  #slot(): void {
    this.#timer = null;
    for (let i = 0; i < PER_SLOT && this.#runs.length > 0; i++) this.#one();
    // From the end of this one: after a pause there is no burst.
    if (this.#runs.length > 0) this.#timer = setTimeout(() => this.#slot(), SLOT_MS);
  }

  #one(): void {
    const run = this.#runs[this.#turn++ % this.#runs.length];
    if (run === undefined) return;
    const { peer, address, ports, send, isOver } = run.of;
    const isFound = isOver();
    const next = isFound ? null : ports.next();
    if (next !== null && next.done !== true) {
      run.sent++;
      send(next.value);
      return;
    }
    this.#runs.splice(this.#runs.indexOf(run), 1);
    run.end(run.sent);
    this.#inVain.delete(peer);
    if (!isFound) this.#inVain.set(peer, { at: performance.now(), address });
    for (const oldest of this.#inVain.keys()) {
      if (this.#inVain.size <= MOST_REMEMBERED) break;
      this.#inVain.delete(oldest);
    }
  }
}
