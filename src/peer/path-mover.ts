// Carries out a move: what WireGuard sends leaves by the new path at once, and what a dead path still brings is dropped.
//
// WireGuard answers to where the last packet came from, at both ends, so a tunnel that carries traffic is never told another
// endpoint: its outgoing packets are diverted (by the bridge, or by one nft rule), and the two ends follow each other.
import { SerialQueue } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { type Endpoint, familyOf, formatEndpoint, type IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Discovery, SidePort } from "../net/discovery/discovery.ts";
import type { Diversion, Redirect } from "../net/redirect.ts";
import type { Bridge } from "./bridge.ts";
import { type Place, placeKey } from "./path-info.ts";

/** What the moves of all sessions together ask of the kernel. */
export class RedirectBoard {
  readonly #redirect: Redirect;
  readonly #wireGuardPort: number;
  readonly #log: Logger;
  readonly #queue = new SerialQueue();
  readonly #redirects = new Map<string, Diversion>();
  readonly #sourceTo: (to: Endpoint) => IpAddress | null;
  readonly #drops = new Map<string, Endpoint>();
  /** Side ports by which peers' packets are let in, by place; and by which they leave, by the peer's endpoint. */
  readonly #arriving = new Map<string, { readonly port: number; readonly peer: Endpoint }>();
  readonly #leaving = new Map<string, number>();

  constructor(deps: {
    readonly redirect: Redirect;
    readonly wireGuardPort: number;
    /** From which of our addresses packets go there; null when that is not known. */
    readonly sourceTo: (to: Endpoint) => IpAddress | null;
    readonly log: Logger;
  }) {
    this.#redirect = deps.redirect;
    this.#sourceTo = deps.sourceTo;
    this.#wireGuardPort = deps.wireGuardPort;
    this.#log = deps.log;
  }

  /** What an earlier process dropped or led elsewhere may be the way that is taken next, and nobody else would take it back. */
  begin(): void {
    this.#apply();
  }

  send(from: Place, to: Place): void {
    const [fromKey, toKey] = [formatEndpoint(from), formatEndpoint(to)];
    if (to.via === undefined) this.#drops.delete(toKey);
    this.#redirects.delete(toKey);
    this.#takeSide(to);
    if (fromKey !== toKey) {
      // What was led to the old path goes on to the new one: no packet passes two redirects.
      for (const [key, one] of this.#redirects) {
        if (formatEndpoint(one.to) === fromKey) this.#redirects.set(key, this.#diversion(one.from, to));
      }
      this.#redirects.set(fromKey, this.#diversion(from, to));
    }
    this.#apply();
  }

  #diversion(from: Endpoint, to: Endpoint): Diversion {
    const source = this.#sourceTo(to);
    return source === null || source === this.#sourceTo(from) ? { from, to } : { from, to, source };
  }

  /** The path is used from now on: nothing holds it up, and its side port is WireGuard's too. */
  enter(to: Place): void {
    const isNew = this.#takeSide(to);
    if (this.#forget(to) || isNew) this.#apply();
  }

  /** The path is dead. */
  drop(from: Place): void {
    const key = formatEndpoint(from);
    this.#redirects.delete(key);
    // Nothing may be led into it either; the endpoint is told where to instead.
    for (const [old, one] of this.#redirects) if (formatEndpoint(one.to) === key) this.#redirects.delete(old);
    // Without its rules, what comes to a side port is not WireGuard's.
    if (from.via === undefined) this.#drops.set(key, from);
    else this.#leaveSide(from);
    this.#apply();
  }

  /** The address is of no interest any more. */
  clear(place: Place): void {
    const had = this.#leaveSide(place);
    if (this.#forget(place) || had) this.#apply();
  }

  /** It answers again: what it brings is welcome. A side port has its rules as long as it is used. */
  confirmed(place: Place): void {
    if (place.via === undefined && this.#forget(place)) this.#apply();
  }

  #forget(place: Endpoint): boolean {
    const key = formatEndpoint(place);
    const had = this.#redirects.delete(key);
    return this.#drops.delete(key) || had;
  }

  /** True when something changed. */
  #takeSide(to: Place): boolean {
    const key = formatEndpoint(to);
    if (this.#leaving.get(key) === to.via && (to.via === undefined || this.#arriving.has(placeKey(to)))) return false;
    if (to.via === undefined) return this.#leaving.delete(key);
    this.#leaving.set(key, to.via);
    this.#arriving.set(placeKey(to), { port: to.via, peer: { address: to.address, port: to.port } });
    return true;
  }

  #leaveSide(place: Place): boolean {
    if (place.via === undefined) return false;
    const key = formatEndpoint(place);
    if (this.#leaving.get(key) === place.via) this.#leaving.delete(key);
    return this.#arriving.delete(placeKey(place));
  }

  /** Somebody may have flushed the rules. */
  mend(): void {
    if (this.#redirects.size + this.#drops.size > 0) this.#apply();
  }

  #apply(): void {
    const sides = [...this.#arriving.values()].map((side) => ({
      ...side,
      leaves: this.#leaving.get(formatEndpoint(side.peer)) === side.port,
    }));
    const policy = {
      wireGuardPort: this.#wireGuardPort,
      redirects: [...this.#redirects.values()],
      dropFrom: [...this.#drops.values()],
      sides,
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
  /** Null for one that is closed. */
  readonly sidePort: (port: number) => SidePort | null;
  readonly log: Logger;
}

/** A tunnel without traffic has no packet that could move it: after this long it is told. */
const SETTLE_MS = 700;
/** Packets under way on the old path have arrived by then. */
const LINGER_MS = 5_000;

export class PathMover {
  readonly #deps: MoverDeps;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  /** Paths that were used: what the board may still say of them. */
  readonly #known = new Map<string, Place>();
  #current: string | null = null;
  #moves = 0;

  constructor(deps: MoverDeps) {
    this.#deps = deps;
  }

  /** WireGuard sends there already; what comes to the bridge all the same goes there too. */
  adopt(to: Place): void {
    this.#moves++;
    this.#known.set(placeKey(to), to);
    this.#current = placeKey(to);
    this.#deps.bridge.divert((packets) => this.#sendMany(packets, to));
  }

  /** Null is the relay's WebSocket. */
  move(to: Place | null, from: Place | null, fromDead: boolean): void {
    const { bridge, board, discovery } = this.#deps;
    const move = ++this.#moves;
    for (const place of [from, to]) if (place !== null) this.#known.set(placeKey(place), place);
    this.#current = to === null ? null : placeKey(to);
    bridge.divert(to === null ? null : (packets) => this.#sendMany(packets, to));
    if (discovery.mechanism === "bridge") {
      // WireGuard speaks to the session's bridge, wherever that sends; it need not know of the move.
      if (from !== null && fromDead) this.#accept(from, false);
      if (to !== null) this.#accept(to, true);
      return;
    }
    if (to === null) {
      if (from !== null && fromDead) board.drop(from);
      this.#point(bridge.endpoint);
      return;
    }
    if (from !== null && !fromDead && familyOf(from.address) === familyOf(to.address)) {
      board.send(from, to);
    } else {
      board.enter(to);
      if (from !== null && fromDead) {
        board.drop(from);
        this.#point(to);
      } else if (from !== null) {
        this.#point(bridge.endpoint); // which diverts to the new family
      }
    }
    this.#later(SETTLE_MS, () => void this.#settle(move, to));
    if (from !== null && !fromDead)
      this.#later(LINGER_MS, () => {
        if (move === this.#moves) board.clear(from);
      });
  }

  /** The path answers again: what it brings is welcome. */
  confirmed(place: Place): void {
    if (this.#deps.discovery.mechanism === "nft") {
      this.#deps.board.confirmed(place);
      return;
    }
    // The peer may move there before this end does.
    this.#known.set(placeKey(place), place);
    this.#accept(place, true);
  }

  /** What a side port brings finds its way to the bridge by itself. */
  #accept(place: Place, isWelcome: boolean): void {
    if (place.via === undefined) this.#deps.discovery.accept(place, isWelcome ? this.#deliver : null);
  }

  readonly #deliver = (packets: readonly Uint8Array[]): void => this.#deps.bridge.inject(packets);

  /** The side port is closed: nothing of it stays. */
  closedSide(port: number): void {
    for (const [key, place] of this.#known) {
      if (place.via !== port) continue;
      this.#deps.board.clear(place);
      this.#known.delete(key);
    }
  }

  #sendMany(packets: readonly Uint8Array[], to: Place): number {
    if (to.via === undefined) return this.#deps.discovery.sendMany(packets, to);
    return this.#deps.sidePort(to.via)?.sendMany(packets, to) ?? 0;
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
  close({ toRelay }: { readonly toRelay: boolean }): void {
    const { bridge, board, discovery } = this.#deps;
    const isBridged = discovery.mechanism === "bridge";
    if (toRelay && this.#moves > 0 && !isBridged) this.#point(bridge.endpoint);
    this.#moves++;
    for (const timer of this.#timers) clearTimeout(timer);
    bridge.divert(null);
    for (const [key, place] of this.#known) {
      if (isBridged) this.#accept(place, false);
      else if (toRelay || key !== this.#current) board.clear(place);
    }
    this.#known.clear();
  }
}
