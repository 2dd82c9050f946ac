// Which path a session uses, decided from checks, traffic and the peer's choice: pure.
//
//   wss ──(udp-relay answered in full size)──► udp-relay ──(direct answered in full size)──► direct
//    ▲                                             │                                            │
//    └──────────── no answers while traffic waits, or none for too long ────────────────────────┘
//
// The end that asked for the session chooses; the other follows its nominated checks, and falls back by itself when it is cut off.
// Every path but `wss` counts only while checks of full size are answered on it.
import type { Endpoint } from "../base/ip.ts";
import { FULL_BYTES, SMALLER_BYTES } from "./path-check.ts";

export type PathKind = "direct" | "udp-relay" | "wss";

export interface PathTarget {
  /** The endpoint as text. */
  readonly key: string;
  readonly kind: "direct" | "udp-relay";
  readonly endpoint: Endpoint;
  /** Both ends in one LAN, by the look of the address. */
  readonly lan: boolean;
}

export interface PathInfo {
  readonly target: PathTarget;
  readonly rttMs: number | null;
  readonly answeredAt: number | null;
  /** Largest check that was answered, in bytes of UDP payload; 0 for none of the sizes that count. */
  readonly sizeBytes: number;
  /** Since the last answer. */
  readonly unanswered: number;
  readonly firstUnansweredAt: number | null;
  readonly checkedAt: number;
  /** Checks of full size that went unanswered while small ones were answered. */
  readonly sizeMisses: number;
  /** The peer chose it, at that time. */
  readonly nominatedAt: number | null;
}

export interface PathState {
  readonly chooses: boolean;
  /** A key of `paths`, or "wss". */
  readonly current: string;
  readonly since: number;
  /** Why the current path was taken, for people. */
  readonly reason: string;
  readonly paths: ReadonlyMap<string, PathInfo>;
  /** Start of the burst that is under way, and how much of it was sent. */
  readonly burst: { readonly startAt: number; readonly sent: number } | null;
  /** Packets go out and none come back, since then. */
  readonly silentSince: number | null;
  readonly activeAt: number;
}

export type PathEvent =
  | { readonly kind: "targets"; readonly at: number; readonly targets: readonly PathTarget[] }
  | { readonly kind: "punch"; readonly at: number; readonly startAt: number }
  | {
      readonly kind: "answered";
      readonly at: number;
      readonly key: string;
      readonly rttMs: number;
      readonly sizeBytes: number;
    }
  /** An authenticated check of the peer came in from there. */
  | { readonly kind: "asked"; readonly at: number; readonly target: PathTarget; readonly nominated: boolean }
  /** Packets of the session came in over the WebSocket. */
  | { readonly kind: "relayed"; readonly at: number }
  | { readonly kind: "tick"; readonly at: number; readonly sent: boolean; readonly received: boolean }
  /** The machine's network changed: nothing that was measured holds. */
  | { readonly kind: "network-changed"; readonly at: number };

export type PathEffect =
  | {
      readonly kind: "check";
      readonly target: PathTarget;
      readonly nominate: boolean;
      readonly sizeBytes: number | null;
    }
  /** `from` is dead when `fromDead`: what still arrives by it is dropped until it answers again. */
  | {
      readonly kind: "use";
      readonly to: PathInfo | null;
      readonly from: PathInfo | null;
      readonly fromDead: boolean;
      readonly reason: string;
    };

export interface Stepped {
  readonly state: PathState;
  readonly effects: readonly PathEffect[];
}

/** Offsets of a burst (RFC 8445 paces at 50 ms and more; both ends start together, so a few rounds do). */
const BURST_MS: readonly number[] = [0, 100, 200, 400, 800, 1600, 3200];
/** An answered path is believed for this long without another answer. */
const TRUST_MS = 6_500;
const CHECK_ACTIVE_MS = 3_000;
/** Shorter than the 30 s after which home routers forget (Linux's own default for one-way UDP), with room for one lost check. */
const CHECK_IDLE_MS = 12_000;
const ACTIVE_MS = 45_000;
/** Traffic that waits this long for any answer makes the path suspect; then it is checked at every tick. */
const SUSPECT_MS = 250;
/** A suspect path is dead after so many checks, over at least so long, without an answer. */
const DEAD_CHECKS = 3;
const DEAD_MS = 300;
/** Packets under way on the old path arrive after a move; they are no sign of another. */
const MOVE_GRACE_MS = 1_000;
/** Another direct path must be better by this much, so that two alike do not alternate. */
const BETTER_MS = 1;
const BETTER_RATIO = 0.85;
const MOST_PATHS = 32;
/** Full-size checks that may be lost before a smaller size is tried. */
const SIZE_TRIES = 3;

export function startPaths(chooses: boolean, at: number): PathState {
  return {
    chooses,
    current: "wss",
    since: at,
    reason: "the relay carries every session first",
    paths: new Map(),
    burst: null,
    silentSince: null,
    activeAt: at,
  };
}

export function stepPaths(before: PathState, event: PathEvent): Stepped {
  const effects: PathEffect[] = [];
  let state = apply(before, event, effects);
  state = choose(state, event.at, effects);
  return { state, effects };
}

function apply(state: PathState, event: PathEvent, effects: PathEffect[]): PathState {
  switch (event.kind) {
    case "targets":
      return withTargets(state, event.targets);
    case "punch":
      return { ...state, burst: { startAt: event.startAt, sent: 0 } };
    case "answered":
      return answered(state, event);
    case "asked":
      return asked(state, event, effects);
    case "relayed":
      // The choosing end has gone back to the relay, or lost us: our own way out must be checked, and its choice followed.
      if (state.current === "wss" || event.at - state.since < MOVE_GRACE_MS) return state;
      if (!state.chooses && !nominatedLately(state, event.at))
        return fallBack(state, "the peer uses the relay", event.at, effects);
      return { ...state, silentSince: state.silentSince ?? event.at - SUSPECT_MS };
    case "tick":
      return tick(state, event, effects);
    case "network-changed":
      return {
        ...state,
        paths: new Map([...state.paths].map(([key, info]) => [key, forgotten(info)])),
        silentSince: event.at - SUSPECT_MS,
      };
  }
}

function fresh(target: PathTarget): PathInfo {
  return {
    target,
    rttMs: null,
    answeredAt: null,
    sizeBytes: 0,
    unanswered: 0,
    firstUnansweredAt: null,
    checkedAt: Number.NEGATIVE_INFINITY,
    sizeMisses: 0,
    nominatedAt: null,
  };
}

function forgotten(info: PathInfo): PathInfo {
  return { ...fresh(info.target), nominatedAt: info.nominatedAt };
}

function withInfo(state: PathState, info: PathInfo): PathState {
  return { ...state, paths: new Map(state.paths).set(info.target.key, info) };
}

/** New targets join; those that answer, and the current one, stay whatever the peer says. */
function withTargets(state: PathState, targets: readonly PathTarget[]): PathState {
  const paths = new Map<string, PathInfo>();
  for (const [key, info] of state.paths) if (key === state.current || info.answeredAt !== null) paths.set(key, info);
  for (const target of targets) {
    if (paths.size >= MOST_PATHS) break;
    if (!paths.has(target.key)) paths.set(target.key, state.paths.get(target.key) ?? fresh(target));
  }
  return { ...state, paths };
}

function answered(state: PathState, event: Extract<PathEvent, { kind: "answered" }>): PathState {
  const info = state.paths.get(event.key);
  if (info === undefined) return state;
  const smoothed = info.rttMs === null ? event.rttMs : info.rttMs * 0.75 + event.rttMs * 0.25;
  const silentSince = event.key === state.current ? null : state.silentSince;
  return {
    ...withInfo(state, {
      ...info,
      rttMs: smoothed,
      answeredAt: event.at,
      sizeBytes: Math.max(info.sizeBytes, event.sizeBytes),
      unanswered: 0,
      firstUnansweredAt: null,
      sizeMisses: event.sizeBytes > 0 ? 0 : info.sizeMisses,
    }),
    silentSince,
  };
}

/** A check from where nobody said the peer would be is an address that its router gave it: it is checked in turn. */
function asked(state: PathState, event: Extract<PathEvent, { kind: "asked" }>, effects: PathEffect[]): PathState {
  const known = state.paths.get(event.target.key);
  if (known === undefined && state.paths.size >= MOST_PATHS) return state;
  let info = known ?? fresh(event.target);
  if (event.nominated) info = { ...info, nominatedAt: event.at };
  const next = withInfo(state, info);
  return isUsable(info, event.at) ? next : check(next, info, event.at, effects);
}

function check(state: PathState, info: PathInfo, at: number, effects: PathEffect[]): PathState {
  const nominate = state.chooses && info.target.key === state.current;
  const sizeBytes = info.sizeBytes > 0 ? null : wantedSize(info);
  effects.push({ kind: "check", target: info.target, nominate, sizeBytes: null });
  if (sizeBytes !== null) effects.push({ kind: "check", target: info.target, nominate, sizeBytes });
  return withInfo(state, {
    ...info,
    checkedAt: at,
    unanswered: info.unanswered + 1,
    firstUnansweredAt: info.firstUnansweredAt ?? at,
    sizeMisses: sizeBytes !== null && info.answeredAt !== null ? info.sizeMisses + 1 : info.sizeMisses,
  });
}

/** Full size first; smaller ones once small checks are answered and full ones are not. */
function wantedSize(info: PathInfo): number {
  const sizes = [FULL_BYTES, ...SMALLER_BYTES];
  return sizes[Math.min(Math.floor(info.sizeMisses / SIZE_TRIES), sizes.length - 1)] ?? FULL_BYTES;
}

function tick(state: PathState, event: Extract<PathEvent, { kind: "tick" }>, effects: PathEffect[]): PathState {
  const { at } = event;
  let next = state;
  if (event.sent || event.received) next = { ...next, activeAt: at };
  if (event.received) next = { ...next, silentSince: null };
  else if (event.sent) next = { ...next, silentSince: next.silentSince ?? at };
  next = burst(next, at, effects);
  for (const info of [...next.paths.values()]) {
    if (isDue(next, info, at)) next = check(next, info, at, effects);
  }
  return next;
}

function burst(state: PathState, at: number, effects: PathEffect[]): PathState {
  if (state.burst === null) return state;
  const { startAt, sent } = state.burst;
  const due = BURST_MS.filter((offset) => at >= startAt + offset).length;
  if (due <= sent) return state;
  let next: PathState = { ...state, burst: due >= BURST_MS.length ? null : { startAt, sent: due } };
  for (const info of [...next.paths.values()]) if (!isUsable(info, at)) next = check(next, info, at, effects);
  return next;
}

/** Keepalives of the current path and of those that may have to take over; at every tick while the current one is suspect. */
function isDue(state: PathState, info: PathInfo, at: number): boolean {
  const since = at - info.checkedAt;
  const isCurrent = info.target.key === state.current;
  if (isCurrent && isSuspect(state, at)) return since >= 90;
  if (info.answeredAt === null || at - info.answeredAt > 2 * CHECK_IDLE_MS) return false;
  // A path that answers small checks is tried in full size soon.
  if (info.sizeBytes === 0) return since >= 200;
  const isActive = at - state.activeAt < ACTIVE_MS;
  return since >= (isCurrent && isActive ? CHECK_ACTIVE_MS : CHECK_IDLE_MS);
}

function isSuspect(state: PathState, at: number): boolean {
  return state.silentSince !== null && at - state.silentSince >= SUSPECT_MS;
}

export function isUsable(info: PathInfo, at: number): boolean {
  return info.sizeBytes > 0 && info.answeredAt !== null && at - info.answeredAt <= 2 * CHECK_IDLE_MS + TRUST_MS;
}

function isDead(state: PathState, info: PathInfo, at: number): boolean {
  if (info.unanswered < DEAD_CHECKS || info.firstUnansweredAt === null) return false;
  const waited = at - info.firstUnansweredAt;
  const patience = Math.max(DEAD_MS, 3 * (info.rttMs ?? 100));
  if (isSuspect(state, at)) return waited >= patience;
  return waited >= TRUST_MS;
}

function nominatedLately(state: PathState, at: number): boolean {
  const info = state.paths.get(state.current);
  return info?.nominatedAt != null && at - info.nominatedAt < MOVE_GRACE_MS;
}

function fallBack(state: PathState, reason: string, at: number, effects: PathEffect[]): PathState {
  const from = state.paths.get(state.current) ?? null;
  const rest = [...state.paths.values()].filter(
    (info) => info !== from && isUsable(info, at) && !isDead(state, info, at) && info.target.kind === "udp-relay",
  );
  const to = state.chooses ? (rest[0] ?? null) : null;
  effects.push({ kind: "use", to, from, fromDead: true, reason });
  const paths = new Map(state.paths);
  if (from !== null) paths.set(from.target.key, forgotten(from));
  return { ...state, paths, current: to?.target.key ?? "wss", since: at, reason, silentSince: null };
}

function choose(state: PathState, at: number, effects: PathEffect[]): PathState {
  const current = state.paths.get(state.current) ?? null;
  if (current !== null && isDead(state, current, at)) {
    return fallBack(state, `${current.target.kind} path by ${current.target.key} stopped answering`, at, effects);
  }
  const best = state.chooses ? bestPath(state, current, at) : nominated(state, at);
  if (best === null || best === current) return state;
  const reason = `${best.target.kind} path by ${best.target.key} answered`;
  effects.push({ kind: "use", to: best, from: current, fromDead: false, reason });
  const next = { ...state, current: best.target.key, since: at, reason, silentSince: null };
  // The peer learns of the choice by a nominated check.
  return state.chooses ? check(next, best, at, effects) : next;
}

/** The path that the peer chose last, once a check of our own was answered on it. */
function nominated(state: PathState, at: number): PathInfo | null {
  let best: PathInfo | null = null;
  for (const info of state.paths.values()) {
    if (info.nominatedAt === null || at - info.nominatedAt > TRUST_MS || !isUsable(info, at)) continue;
    if (best === null || info.nominatedAt > (best.nominatedAt ?? 0)) best = info;
  }
  return best;
}

function bestPath(state: PathState, current: PathInfo | null, at: number): PathInfo | null {
  let best = current;
  for (const info of state.paths.values()) {
    if (info === best || !isUsable(info, at) || isDead(state, info, at)) continue;
    if (best === null || isBetter(info, best)) best = info;
  }
  return best;
}

function isBetter(a: PathInfo, b: PathInfo): boolean {
  if (a.target.kind !== b.target.kind) return a.target.kind === "direct";
  if (a.sizeBytes !== b.sizeBytes) return a.sizeBytes > b.sizeBytes;
  if (a.target.lan !== b.target.lan) return a.target.lan;
  const [rttA, rttB] = [a.rttMs ?? 1e9, b.rttMs ?? 1e9];
  return rttA < rttB * BETTER_RATIO && rttA < rttB - BETTER_MS;
}
