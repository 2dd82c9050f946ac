// Carries out a move: what WireGuard sends leaves by the new path at once, and what a dead path still brings is dropped.
//
// WireGuard answers to where the last packet came from, at both ends, so a tunnel that carries traffic is never told another
// endpoint: its outgoing packets are diverted (by the bridge, or by one nft rule), and the two ends follow each other.
import { SerialQueue } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { type Endpoint, familyOf, formatEndpoint } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Discovery, PeerSocket } from "../net/discovery/discovery.ts";
import type { Redirect } from "../net/redirect.ts";
import type { Bridge } from "./bridge.ts";

/** What the moves of all sessions together ask of the kernel. */
export class RedirectBoard {
  readonly #redirect: Redirect;
  readonly #wireGuardPort: number;
  readonly #log: Logger;
  readonly #queue = new SerialQueue();
  readonly #redirects = new Map<string, { readonly from: Endpoint; readonly to: Endpoint }>();
  readonly #drops = new Map<string, Endpoint>();

  constructor(deps: { readonly redirect: Redirect; readonly wireGuardPort: number; readonly log: Logger }) {
    this.#redirect = deps.redirect;
    this.#wireGuardPort = deps.wireGuardPort;
    this.#log = deps.log;
  }

  send(from: Endpoint, to: Endpoint): void {
    this.#drops.delete(formatEndpoint(to));
    this.#redirects.set(formatEndpoint(from), { from, to });
    this.#apply();
  }

  drop(from: Endpoint): void {
    this.#redirects.delete(formatEndpoint(from));
    this.#drops.set(formatEndpoint(from), from);
    this.#apply();
  }

  /** The address is of no interest any more, or answers again. */
  clear(endpoint: Endpoint): void {
    const key = formatEndpoint(endpoint);
    const had = this.#redirects.delete(key);
    if (this.#drops.delete(key) || had) this.#apply();
  }

  #apply(): void {
    const policy = {
      wireGuardPort: this.#wireGuardPort,
      redirects: [...this.#redirects.values()],
      dropFrom: [...this.#drops.values()],
    };
    this.#queue
      .run(() => this.#redirect.apply(policy, new AbortController().signal))
      .catch((thrown: unknown) => this.#log.warn({ reason: errorText(thrown) }, "path not redirected"));
  }

  async idle(): Promise<void> {
    await this.#queue.idle();
  }
}

export interface MoverDeps {
  readonly discovery: Discovery;
  readonly board: RedirectBoard;
  readonly bridge: Bridge;
  /** Where WireGuard sends now. */
  readonly endpoint: () => Promise<Endpoint | null>;
  readonly setEndpoint: (endpoint: Endpoint) => Promise<void>;
  readonly log: Logger;
}

/** A tunnel without traffic has no packet that could move it: after this long it is told. */
const SETTLE_MS = 700;
/** Packets under way on the old path have arrived by then. */
const LINGER_MS = 5_000;

export class PathMover {
  readonly #deps: MoverDeps;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  #moves = 0;
  #socket: PeerSocket | null = null;

  constructor(deps: MoverDeps) {
    this.#deps = deps;
  }

  /** Null is the relay's WebSocket. */
  move(to: Endpoint | null, from: Endpoint | null, fromDead: boolean): void {
    const { bridge, board, discovery } = this.#deps;
    const move = ++this.#moves;
    if (to === null) {
      bridge.divert(null);
      if (from !== null && fromDead) board.drop(from);
      this.#point(bridge.endpoint);
      return;
    }
    bridge.divert((packets) => discovery.sendMany(packets, to));
    board.clear(to);
    if (discovery.mechanism === "bridge") {
      void this.#route(to, from);
      return;
    }
    if (from !== null && fromDead) {
      board.drop(from);
      this.#point(to);
    } else if (from !== null && familyOf(from.address) === familyOf(to.address)) {
      board.send(from, to);
    } else if (from !== null) {
      this.#point(bridge.endpoint); // which diverts to the new family
    }
    this.#later(SETTLE_MS, () => void this.#settle(move, to));
    if (from !== null && !fromDead) this.#later(LINGER_MS, () => board.clear(from));
  }

  /** The path answers again: what it brings is welcome. */
  confirmed(endpoint: Endpoint): void {
    this.#deps.board.clear(endpoint);
  }

  /** Where a userspace bridge has the port, WireGuard's endpoint is a socket of its own for the peer. */
  async #route(to: Endpoint, from: Endpoint | null): Promise<void> {
    const route = { to, ...(from === null ? {} : { alsoFrom: [from] }) };
    try {
      if (this.#socket === null) this.#socket = await this.#deps.discovery.peerSocket(route);
      else this.#socket.setRoute(route);
    } catch (thrown) {
      this.#deps.log.warn({ reason: errorText(thrown) }, "path not opened");
    }
  }

  async #settle(move: number, to: Endpoint): Promise<void> {
    if (move !== this.#moves) return;
    const now = await this.#deps.endpoint().catch(() => null); // the device is gone: whoever makes it anew sets the peer
    if (move !== this.#moves || now === null || formatEndpoint(now) === formatEndpoint(to)) return;
    this.#point(to);
  }

  #point(endpoint: Endpoint): void {
    this.#deps.setEndpoint(endpoint).catch((thrown: unknown) => {
      this.#deps.log.warn({ reason: errorText(thrown) }, "endpoint not set");
    });
  }

  #later(ms: number, task: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      task();
    }, ms);
    this.#timers.add(timer);
  }

  async close(): Promise<void> {
    this.#moves++;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#deps.bridge.divert(null);
    await this.#socket?.[Symbol.asyncDispose]();
  }
}
