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
    const [fromKey, toKey] = [formatEndpoint(from), formatEndpoint(to)];
    this.#drops.delete(toKey);
    this.#redirects.delete(toKey);
    // What was led to the old path goes on to the new one: no packet passes two redirects.
    for (const [key, one] of this.#redirects) {
      if (formatEndpoint(one.to) === fromKey) this.#redirects.set(key, { from: one.from, to });
    }
    this.#redirects.set(fromKey, { from, to });
    this.#apply();
  }

  drop(from: Endpoint): void {
    const key = formatEndpoint(from);
    this.#redirects.delete(key);
    // Nothing may be led into it either; the endpoint is told where to instead.
    for (const [old, one] of this.#redirects) if (formatEndpoint(one.to) === key) this.#redirects.delete(old);
    this.#drops.set(key, from);
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
  /** Paths that were left: what the board may still say of them. */
  readonly #left = new Map<string, Endpoint>();
  #moves = 0;
  #socket: PeerSocket | null = null;

  constructor(deps: MoverDeps) {
    this.#deps = deps;
  }

  /** Null is the relay's WebSocket. */
  move(to: Endpoint | null, from: Endpoint | null, fromDead: boolean): void {
    const { bridge, board, discovery } = this.#deps;
    const move = ++this.#moves;
    if (from !== null) this.#left.set(formatEndpoint(from), from);
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
    if (from !== null && !fromDead)
      this.#later(LINGER_MS, () => {
        if (move === this.#moves) board.clear(from);
      });
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

  /** `toRelay`: the session is over, and WireGuard shall not go on sending to where it was. */
  async close({ toRelay }: { readonly toRelay: boolean }): Promise<void> {
    const { bridge, board } = this.#deps;
    if (toRelay && this.#moves > 0) this.#point(bridge.endpoint);
    this.#moves++;
    for (const timer of this.#timers) clearTimeout(timer);
    bridge.divert(null);
    for (const endpoint of this.#left.values()) board.clear(endpoint);
    this.#left.clear();
    await this.#socket?.[Symbol.asyncDispose]();
  }
}
