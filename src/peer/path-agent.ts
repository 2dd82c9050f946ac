// The path of one session: sends its checks, takes their answers, and has the decisions of path-state.ts carried out.
import { fromBase64Url, toHex } from "../base/bytes.ts";
import type { Endpoint } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Session } from "../proto/control.ts";
import type { Probe } from "../proto/path.ts";
import type { Discovery, SidePort } from "../net/discovery/discovery.ts";
import { type CheckKeys, checkAnswer, checkRequest, type Incoming, isFromPeer, sessionName } from "./path-check.ts";
import {
  isTried,
  isUsable,
  type PathInfo,
  type PathKind,
  type PathTarget,
  type Place,
  placeKey,
  placeOf,
} from "./path-info.ts";
import { moveSentence } from "./path-sentence.ts";
import type { PathMover } from "./path-mover.ts";
import { isSuspect } from "./path-life.ts";
import type { SideView } from "./side-plan.ts";
import { BURST_MS, type PathEffect, type PathEvent, type PathState, startPaths, stepPaths } from "./path-state.ts";

export interface PathView {
  readonly kind: PathKind;
  readonly endpoint: Endpoint | null;
  /** Unix milliseconds. */
  readonly sinceMs: number;
  readonly rttMs: number | null;
  readonly reason: string;
  /** Largest UDP payload that the path takes; null for the WebSocket, which takes any. */
  readonly sizeBytes: number | null;
  /** Everything that was tried, for `higgs why`. */
  readonly tried: readonly PathInfo[];
  /** The search by other ports than WireGuard's. */
  readonly side?: SideView;
}

export interface PathAgentDeps {
  readonly discovery: Discovery;
  readonly mover: PathMover;
  /** Null for one that is closed. */
  readonly sidePort: (port: number) => SidePort | null;
  /** How an address looks from here: LAN or not. */
  readonly target: (place: Place) => PathTarget | null;
  /** Which kinds a person allows. */
  readonly allowed: ReadonlySet<PathKind>;
  readonly peerName: string;
  /** How long a path may be silent before a router forgets it. */
  readonly idleMs: () => number;
  /** `lost`: the path before it is dead. */
  readonly onMoved: (lost: boolean) => void;
  readonly log: Logger;
}

interface Pending {
  readonly key: string;
  /** Those under which it was asked; nobody else's word is an answer. */
  readonly keys: CheckKeys;
  readonly sentAt: number;
  /** 0 for a small check; null for a request to the server's relay, whose answer says only that it is there. */
  readonly sizeBytes: number | null;
}

/** An answer that comes later says nothing about now. */
const ANSWER_MS = 3_000;
const MOST_PENDING = 256;
/** Both ends have found the same path by then. */
const SETTLED_MS = 5_000;
/** Transaction ids of the peer's checks, some minutes of them: what comes again was recorded by somebody. */
const MOST_SEEN = 1_024;

export class PathAgent {
  readonly session: number;
  readonly user: string;
  readonly #deps: PathAgentDeps;
  readonly #keys: CheckKeys;
  readonly #relayKeys: CheckKeys | null;
  readonly #relays: ReadonlySet<string>;
  readonly #pending = new Map<string, Pending>();
  readonly #seen = new Set<string>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #startedMs = Date.now() - performance.now();
  #state: PathState;

  /** `adopted`: the path that carries the tunnel already, and when its packets were last heard, if that is known. */
  constructor(
    deps: PathAgentDeps,
    session: Session,
    { probe, ...before }: { readonly probe: Probe; readonly adopted?: PathInfo | null; readonly heardAt?: number },
  ) {
    const bytes = (text: string): Uint8Array => fromBase64Url(text) ?? new Uint8Array(32);
    this.#deps = deps;
    this.session = session.id;
    this.user = sessionName(session.id);
    this.#keys = { session: session.id, send: bytes(probe.sendKey), receive: bytes(probe.receiveKey) };
    this.#relayKeys =
      probe.relay === null
        ? null
        : { session: session.id, send: bytes(probe.relay.sendKey), receive: bytes(probe.relay.receiveKey) };
    this.#relays = new Set(probe.relay?.endpoints ?? []);
    this.#state = startPaths(session.initiator, performance.now(), before);
  }

  /** Null for the WebSocket. */
  get current(): PathInfo | null {
    return this.#state.paths.get(this.#state.current) ?? null;
  }

  /** When packets last came in on it. */
  get heardAt(): number {
    return this.#state.heardAt;
  }

  get isSuspect(): boolean {
    return isSuspect(this.#state, this.current, performance.now());
  }

  get view(): PathView {
    const { current, since, reason, paths } = this.#state;
    const info = paths.get(current) ?? null;
    return {
      kind: info?.target.kind ?? "wss",
      endpoint: info?.target.endpoint ?? null,
      sinceMs: Math.round(this.#startedMs + since),
      rttMs: info?.rttMs ?? null,
      reason,
      sizeBytes: info === null ? null : info.sizeBytes,
      tried: [...paths.values()],
    };
  }

  /** True while something is being found out, so that ticks should come often. */
  get isBusy(): boolean {
    return (
      this.#state.burst !== null ||
      this.#state.silentSince !== null ||
      performance.now() - this.#state.activeAt < 10_000
    );
  }

  /** True when a direct path is used, or has answered since then, in whatever size: routers are in the way no more. */
  hasDirect(since: number): boolean {
    const { paths, current } = this.#state;
    const direct = [...paths.values()].filter((info) => info.target.kind === "direct");
    return direct.some(({ target, answeredAt }) => target.key === current || (answeredAt ?? -1) >= since);
  }

  /** The side ports that are of use: the one of the path in use, and while that is not direct, or new, those by which there may be another. */
  get sides(): ReadonlySet<number> {
    const { paths, current, since } = this.#state;
    const at = performance.now();
    const isSettled = paths.get(current)?.target.kind === "direct" && at - since > SETTLED_MS;
    const used = [...paths.values()].filter((info) => {
      return info.target.key === current || (!isSettled && isTried(info, at));
    });
    return new Set(used.flatMap(({ target }) => target.via ?? []));
  }

  sideClosed(via: number): void {
    this.#step({ kind: "side-closed", at: performance.now(), via });
  }

  /** Round trip by the server's relay, or null. */
  get relayRttMs(): number | null {
    const relays = [...this.#state.paths.values()].filter((info) => info.target.kind === "udp-relay");
    return relays.find((info) => info.rttMs !== null)?.rttMs ?? null;
  }

  /** True while WireGuard's packets from there are welcome. */
  isOpen(place: Place): boolean {
    const info = this.#state.paths.get(placeKey(place));
    return info !== undefined && isUsable(info, performance.now());
  }

  /** A check whose answer is of no interest: whoever gets it checks back. */
  probe(): Uint8Array {
    const transactionId = crypto.getRandomValues(new Uint8Array(12));
    return checkRequest(this.#keys, { transactionId, nominate: false, sizeBytes: null });
  }

  targets(targets: readonly PathTarget[]): void {
    this.#step({
      kind: "targets",
      at: performance.now(),
      targets: targets.filter((one) => this.#deps.allowed.has(one.kind)),
    });
  }

  /** On timers of its own: ticks are too coarse for routers that want both ends to start within some 20 ms. */
  punch(inMs: number): void {
    const at = performance.now();
    this.#clearTimers();
    this.#step({ kind: "punch", at, startAt: at + inMs });
    for (const offset of BURST_MS) {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        this.tick({ sent: false, received: false });
      }, inMs + offset);
      this.#timers.add(timer);
    }
  }

  close(): void {
    this.#clearTimers();
    this.#pending.clear();
  }

  #clearTimers(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  tick(traffic: { readonly sent: boolean; readonly received: boolean }): void {
    const at = performance.now();
    for (const [id, pending] of this.#pending) if (at - pending.sentAt > ANSWER_MS) this.#pending.delete(id);
    this.#step({ kind: "tick", at, ...traffic, idleMs: this.#deps.idleMs() });
  }

  /** Whether the WebSocket leads to the peer. */
  setCanRelay(canRelay: boolean): void {
    if (canRelay !== this.#state.canRelay) this.#step({ kind: "relay", at: performance.now(), canRelay });
  }

  relayed(): void {
    if (this.#state.current !== "wss") this.#step({ kind: "relayed", at: performance.now() });
  }

  networkChanged(): void {
    this.#step({ kind: "network-changed", at: performance.now() });
  }

  /** A message that names this session, or answers a question of ours; false when it is neither, or nobody vouches for it. */
  take(bytes: Uint8Array, message: Incoming, from: Place): boolean {
    if (message.kind === "answer") return this.#takeAnswer(bytes, message, from);
    if (message.user !== this.user) return false;
    const keys = this.#keysFor(bytes);
    if (keys === null) return false;
    if (!this.#isNew(message.transactionId)) return true;
    const answer = { transactionId: message.transactionId, mapped: from, sizeBytes: bytes.length };
    if (keys === this.#relayKeys) {
      this.#sendTo(from, checkAnswer(keys, answer)); // the server's challenge: answering it is all
      return true;
    }
    const target = this.#targetAt(from);
    // An answer would tell the peer that it may come this way.
    if (target === null || !this.#deps.allowed.has(target.kind)) return true;
    this.#sendTo(from, checkAnswer(keys, answer));
    this.#step({ kind: "asked", at: performance.now(), target, nominated: message.nominated && !this.#state.chooses });
    return true;
  }

  #targetAt(from: Place): PathTarget | null {
    const key = placeKey(from);
    if (this.#relays.has(key)) return { key, kind: "udp-relay", endpoint: from, lan: false };
    return this.#state.paths.get(key)?.target ?? this.#deps.target(from);
  }

  #isNew(transactionId: Uint8Array): boolean {
    const id = toHex(transactionId);
    if (this.#seen.has(id)) return false;
    this.#seen.add(id);
    for (const oldest of this.#seen) {
      if (this.#seen.size <= MOST_SEEN) break;
      this.#seen.delete(oldest);
    }
    return true;
  }

  #keysFor(bytes: Uint8Array): CheckKeys | null {
    if (isFromPeer(bytes, this.#keys)) return this.#keys;
    return this.#relayKeys !== null && isFromPeer(bytes, this.#relayKeys) ? this.#relayKeys : null;
  }

  #takeAnswer(bytes: Uint8Array, message: Incoming, from: Place): boolean {
    const id = toHex(message.transactionId);
    const pending = this.#pending.get(id);
    if (pending === undefined || !isFromPeer(bytes, pending.keys)) return false;
    // An answer from elsewhere shows that packets get there, not that they come back the same way.
    if (placeKey(from) !== pending.key) return true;
    this.#pending.delete(id);
    if (pending.sizeBytes === null) return true;
    this.#deps.mover.confirmed(from);
    const at = performance.now();
    const { key, sentAt } = pending;
    // One that comes back smaller shows nothing of the way back.
    const sizeBytes = bytes.length >= pending.sizeBytes ? pending.sizeBytes : 0;
    this.#step({ kind: "answered", at, key, rttMs: at - sentAt, sizeBytes });
    return true;
  }

  #step(event: PathEvent): void {
    const { state, effects } = stepPaths(this.#state, event);
    this.#state = state;
    for (const effect of effects) this.#carryOut(effect);
  }

  #carryOut(effect: PathEffect): void {
    if (effect.kind === "check") {
      this.#check(effect);
      return;
    }
    const { to, from, fromDead, reason } = effect;
    const placed = (info: PathInfo | null): Place | null => (info === null ? null : placeOf(info.target));
    this.#deps.mover.move(placed(to), placed(from), fromDead);
    const peer = this.#deps.peerName;
    const text = moveSentence({ peer, to, from, reason });
    this.#deps.log.info({ peer, path: to?.target.kind ?? "wss", text }, "path changed");
    this.#deps.onMoved(from !== null && fromDead);
  }

  #check(effect: Extract<PathEffect, { kind: "check" }>): void {
    const { target, nominate, sizeBytes } = effect;
    // The relay learns our address from a request to itself; the check behind it goes through to the peer.
    if (target.kind === "udp-relay" && this.#relayKeys !== null) {
      this.#send(this.#relayKeys, target, { nominate: false, sizeBytes: null, counts: false });
    }
    this.#send(this.#keys, target, { nominate, sizeBytes, counts: true });
  }

  #send(
    keys: CheckKeys,
    target: PathTarget,
    what: { readonly nominate: boolean; readonly sizeBytes: number | null; readonly counts: boolean },
  ): void {
    for (const oldest of this.#pending.keys()) {
      if (this.#pending.size < MOST_PENDING) break;
      this.#pending.delete(oldest);
    }
    const transactionId = crypto.getRandomValues(new Uint8Array(12));
    const sizeBytes = what.counts ? (what.sizeBytes ?? 0) : null;
    this.#pending.set(toHex(transactionId), { key: target.key, keys, sentAt: performance.now(), sizeBytes });
    this.#sendTo(placeOf(target), checkRequest(keys, { transactionId, ...what }));
  }

  #sendTo(place: Place, bytes: Uint8Array): void {
    const by = place.via === undefined ? this.#deps.discovery : this.#deps.sidePort(place.via);
    by?.send(bytes, place);
  }
}
