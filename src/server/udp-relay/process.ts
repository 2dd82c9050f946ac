// Forwards a session's datagrams in this process: for ends of two families, and wherever the kernel may not do it.
import { type Endpoint, type Family, familyOf, parseIp } from "../../base/ip.ts";
import { looksLikeWireGuard } from "../../proto/wireguard-packet.ts";
import { type Link, sameEndpoint } from "./state.ts";

/** As much of a socket as forwarding needs. */
export interface RelaySocket {
  /** How many datagrams the kernel took. */
  sendAll(packets: readonly Uint8Array[], to: Endpoint): number;
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

/** Where a datagram came from, as the socket says it: an address is made of the text only where it has to be. */
export interface Source {
  readonly port: number;
  readonly text: string;
}

interface Route {
  readonly from: Endpoint;
  /** The source's address as the socket writes it, once it was seen. */
  text: string;
  readonly to: Endpoint;
  readonly waiting: Uint8Array[];
}

/** One session: what arrives in one turn of the event loop leaves with few system calls. */
export class ProcessForwarding {
  readonly #socketFor: (family: Family) => RelaySocket | null;
  readonly #counters: ForwardCounters;
  /** Passed on for this session. */
  bytes = 0;
  /** Two for each link. */
  #routes: readonly Route[] = [];
  #isFlushing = false;

  constructor(deps: {
    readonly socketFor: (family: Family) => RelaySocket | null;
    readonly counters: ForwardCounters;
  }) {
    this.#socketFor = deps.socketFor;
    this.#counters = deps.counters;
  }

  /** From here on only these. */
  set(links: readonly Link[]): void {
    this.#flush();
    this.#routes = links.flatMap(({ ends: [a, b] }) => [routeOf(a, b), routeOf(b, a)]);
  }

  forward(packet: Uint8Array, from: Source): void {
    if (looksLikeWireGuard(packet, 0, packet.length)) this.pass(packet, from);
    else this.#counters.dropped["not-wireguard"]++;
  }

  isLinked(from: Source): boolean {
    return this.#routeFrom(from) !== null;
  }

  /** Whatever it looks like. The packet is the caller's to leave alone from here on. */
  pass(packet: Uint8Array, from: Source): void {
    const route = this.#routeFrom(from);
    if (route === null) {
      this.#counters.dropped.unlatched++;
      return;
    }
    this.#counters.packets++;
    this.#counters.bytes += packet.length;
    this.bytes += packet.length;
    route.waiting.push(packet);
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    setImmediate(() => this.#flush());
  }

  #routeFrom({ port, text }: Source): Route | null {
    for (const route of this.#routes) if (route.from.port === port && route.text === text) return route;
    if (!this.#routes.some((route) => route.from.port === port)) return null;
    // For the first time from there, or from a stranger.
    const address = parseIp(text);
    const found = address === null ? null : this.#routes.find(({ from }) => sameEndpoint(from, { address, port }));
    if (found == null) return null;
    found.text = text;
    return found;
  }

  #flush(): void {
    this.#isFlushing = false;
    for (const { to, waiting } of this.#routes) {
      if (waiting.length === 0) continue;
      const packets = waiting.splice(0);
      const sent = this.#socketFor(familyOf(to.address))?.sendAll(packets, to) ?? 0;
      this.#counters.dropped.unsent += packets.length - sent;
    }
  }
}

function routeOf(from: Endpoint, to: Endpoint): Route {
  return { from, text: "", to, waiting: [] };
}
