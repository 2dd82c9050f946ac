// Forwards a session's datagrams in this process: for ends of two families, and wherever the kernel may not do it.
import { type Endpoint, familyOf, formatEndpoint } from "../../base/ip.ts";
import { looksLikeWireGuard } from "../../proto/wireguard-packet.ts";
import type { Link } from "./state.ts";

/** As much of a socket as forwarding needs. */
export interface RelaySocket {
  /** Triples of data, port and address; how many datagrams the kernel took. */
  sendMany(triples: readonly (Uint8Array | number | string)[]): number;
}

export interface ForwardCounters {
  packets: number;
  bytes: number;
  readonly dropped: {
    /** From an address that is no end's, or while the other end is nowhere. */
    unlatched: number;
    "not-wireguard": number;
    /** The kernel's buffer was full, or there was no route. */
    unsent: number;
  };
}

export function forwardCounters(): ForwardCounters {
  return { packets: 0, bytes: 0, dropped: { unlatched: 0, "not-wireguard": 0, unsent: 0 } };
}

/** One session: what arrives in one turn of the event loop leaves with one system call for each socket. */
export class ProcessForwarding {
  readonly #socketFor: (family: 4 | 6) => RelaySocket | null;
  readonly #counters: ForwardCounters;
  /** Passed on for this session. */
  bytes = 0;
  #routes = new Map<string, Endpoint>();
  #waiting = new Map<RelaySocket, (Uint8Array | number | string)[]>();
  #isFlushing = false;

  constructor(deps: {
    readonly socketFor: (family: 4 | 6) => RelaySocket | null;
    readonly counters: ForwardCounters;
  }) {
    this.#socketFor = deps.socketFor;
    this.#counters = deps.counters;
  }

  /** From here on only these. */
  set(links: readonly Link[]): void {
    const routes = new Map<string, Endpoint>();
    for (const { ends } of links) {
      routes.set(formatEndpoint(ends[0]), ends[1]);
      routes.set(formatEndpoint(ends[1]), ends[0]);
    }
    this.#routes = routes;
  }

  forward(packet: Uint8Array, from: Endpoint): void {
    if (looksLikeWireGuard(packet, 0, packet.length)) this.pass(packet, from);
    else this.#counters.dropped["not-wireguard"]++;
  }

  isLinked(from: Endpoint): boolean {
    return this.#routes.has(formatEndpoint(from));
  }

  /** Whatever it looks like. */
  pass(packet: Uint8Array, from: Endpoint): void {
    const { dropped } = this.#counters;
    const to = this.#routes.get(formatEndpoint(from));
    if (to === undefined) {
      dropped.unlatched++;
      return;
    }
    const socket = this.#socketFor(familyOf(to.address));
    if (socket === null) {
      dropped.unsent++;
      return;
    }
    this.#counters.packets++;
    this.#counters.bytes += packet.length;
    this.bytes += packet.length;
    const waiting = this.#waiting.get(socket);
    if (waiting === undefined) this.#waiting.set(socket, [packet, to.port, to.address]);
    else waiting.push(packet, to.port, to.address);
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    setImmediate(() => this.#flush());
  }

  #flush(): void {
    this.#isFlushing = false;
    const all = this.#waiting;
    this.#waiting = new Map();
    for (const [socket, triples] of all) {
      this.#counters.dropped.unsent += triples.length / 3 - socket.sendMany(triples);
    }
  }
}
