// Which path a session uses, decided from checks, traffic and the peer's choice: pure.
//
//   wss ──(udp-relay answered in full size)──► udp-relay ──(direct answered in full size)──► direct
//    ▲                                             │                                            │
//    └──────────── no answers while traffic waits, or none for too long ────────────────────────┘
//
// The end that asked for the session chooses; the other follows its nominated checks, and falls back by itself when it is cut off.
// An answer is as large as its request, so a path is alive, and wide enough, in both directions or in none.
// Every path but `wss` counts only while checks of full size are answered on it.
import { FULL_BYTES } from "./path-check.ts";
import { isArriving, isDead, isSuspect, needsProof, type PathSigns, SUSPECT_MS, suspectPaceMs } from "./path-life.ts";
import {
  forgotten,
  fresh,
  isAlive,
  isAnswering,
  isBetter,
  isNarrow,
  isUsable,
  LOST_MS,
  type PathInfo,
  type PathTarget,
  TRUST_MS,
  wantedSize,
} from "./path-info.ts";

export interface PathState extends PathSigns {
  readonly chooses: boolean;
  /** A key of `paths`, or "wss". */
  readonly current: string;
  readonly since: number;
  /** Why the current path was taken, for people. */
  readonly reason: string;
  readonly paths: ReadonlyMap<string, PathInfo>;
  /** Start of the burst that is under way, how much of it was sent, and how much of it there is. */
  readonly burst: { readonly startAt: number; readonly sent: number; readonly rounds: number } | null;
  /** False while the WebSocket leads nowhere, at this end or at the other: then a path is better than none, dead or not. */
  readonly canRelay: boolean;
  /** Packets of the session last came in over the WebSocket: what is received then shows nothing of the current path. */
  readonly relayedAt: number;
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
  | { readonly kind: "relay"; readonly at: number; readonly canRelay: boolean }
  /** Packets of the session came in over the WebSocket. */
  | { readonly kind: "relayed"; readonly at: number }
  | {
      readonly kind: "tick";
      readonly at: number;
      readonly sent: boolean;
      readonly received: boolean;
      /** How long a path may be silent before a router forgets it. */
      readonly idleMs: number;
    }
  /** A side port is closed, and with it whatever went by it. */
  | { readonly kind: "side-closed"; readonly at: number; readonly via: number }
  /** The machine's network changed: nothing that was measured holds. */
  | { readonly kind: "network-changed"; readonly at: number };

type Tick = Extract<PathEvent, { kind: "tick" }>;

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
export const BURST_MS: readonly number[] = [0, 100, 200, 400, 800, 1600, 3200];
/** Rounds of a burst while a direct path of full size is in use already. */
const CONTENT_ROUNDS = 3;
const CHECK_ACTIVE_MS = 3_000;
/** After a check that was not answered in time. */
const CHECK_MISSED_MS = 1_000;
const ACTIVE_MS = 45_000;
/** Two packets further apart than this are keepalives, not traffic; WireGuard's come about as often as idle paths are checked. */
const LONE_MS = 10_000;
const LONE_SHARE = 0.7;
/** Packets under way on the old path arrive after a move; they are no sign of another. */
const MOVE_GRACE_MS = 1_000;
/** A choice is told again so often, for so long: one lost check must not keep the ends apart. */
const TELL_MS = 300;
const TELL_FOR_MS = 1_500;
/** What the peer's checks may make us send, so that neither a replay nor an echo of the two ends becomes a flood. */
const ASKED_GAP_MS = 50;
/** Only a path that answered just now is moved to. */
const FRESH_MS = 1_000;
/** A path that was given up is tried so often. */
const LOST_CHECK_MS = 5_000;
export const MOST_PATHS = 32;
const SIZE_PACE_MS = 200;
/** A path that once lost full packets may carry them later. */
const GROW_MS = 60_000;

/**
 * `adopted` carried the tunnel under an earlier session, or an earlier process; its checks and the traffic will tell. `heardAt`: packets
 * last came in on it then, as the earlier session's agent saw them.
 */
export function startPaths(
  chooses: boolean,
  at: number,
  { adopted = null, heardAt = Number.NEGATIVE_INFINITY }: { adopted?: PathInfo | null; heardAt?: number } = {},
): PathState {
  const reason = adopted === null ? "the relay carries every session first" : "it carried the tunnel before";
  return {
    chooses,
    current: adopted?.target.key ?? "wss",
    since: at,
    reason,
    paths: new Map(adopted === null ? [] : [[adopted.target.key, adopted]]),
    burst: null,
    canRelay: true,
    silentSince: null,
    heardAt,
    relayedAt: Number.NEGATIVE_INFINITY,
    trafficAt: Number.NEGATIVE_INFINITY,
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
      return withTargets(state, event.targets, event.at);
    case "punch": {
      const rounds = isContent(state, event.at) ? CONTENT_ROUNDS : BURST_MS.length;
      return { ...state, burst: { startAt: event.startAt, sent: 0, rounds } };
    }
    case "answered":
      return answered(state, event, effects);
    case "asked":
      return asked(state, event, effects);
    case "relay":
      return { ...state, canRelay: event.canRelay };
    case "relayed":
      if (state.current === "wss" || event.at - state.since < MOVE_GRACE_MS) return state;
      // The end that chooses has gone back to the relay: its packets come that way only then. It is followed at once.
      if (!state.chooses) return follow(state, event.at, effects);
      // The other end has lost us; our own checks show whether the path is dead for us too.
      return { ...state, relayedAt: event.at, silentSince: state.silentSince ?? event.at - SUSPECT_MS };
    case "tick":
      return tick(state, event, effects);
    case "side-closed": {
      const kept = [...state.paths].filter(([key, { target }]) => target.via !== event.via || key === state.current);
      return { ...state, paths: new Map(kept) };
    }
    case "network-changed":
      return {
        ...state,
        paths: new Map([...state.paths].map(([key, info]) => [key, forgotten(info, event.at)])),
        silentSince: state.current === "wss" ? null : event.at - SUSPECT_MS,
      };
  }
}

/** Nothing is left to wish for but a LAN. */
function isContent(state: PathState, at: number): boolean {
  const info = state.paths.get(state.current);
  return info?.target.kind === "direct" && info.sizeBytes === FULL_BYTES && isUsable(info, at);
}

function withInfo(state: PathState, info: PathInfo): PathState {
  return { ...state, paths: new Map(state.paths).set(info.target.key, info) };
}

/** New targets join; the current one, those that answer and those from which the peer spoke just now stay whatever the peer says. */
function withTargets(state: PathState, targets: readonly PathTarget[], at: number): PathState {
  const paths = new Map<string, PathInfo>();
  for (const [key, info] of state.paths) if (key === state.current || isAlive(info, at)) paths.set(key, info);
  for (const target of targets) {
    if (paths.size >= MOST_PATHS) break;
    if (!paths.has(target.key)) paths.set(target.key, state.paths.get(target.key) ?? fresh(target));
  }
  return { ...state, paths };
}

function answered(state: PathState, event: Extract<PathEvent, { kind: "answered" }>, effects: PathEffect[]): PathState {
  const info = state.paths.get(event.key);
  if (info === undefined) return state;
  const isFirst = info.rttMs === null || info.answeredAt === null;
  const sizeBytes = Math.max(info.sizeBytes, event.sizeBytes);
  const next: PathInfo = {
    ...info,
    rttMs: isFirst ? event.rttMs : (info.rttMs ?? 0) * 0.75 + event.rttMs * 0.25,
    answeredAt: event.at,
    sizeBytes,
    unanswered: 0,
    firstUnansweredAt: null,
    sizeMisses: event.sizeBytes > 0 ? 0 : info.sizeMisses,
    grownAt: sizeBytes === info.sizeBytes ? info.grownAt : event.at,
    lostAt: null,
  };
  const silentSince = event.key === state.current ? null : state.silentSince;
  const known = { ...withInfo(state, next), silentSince };
  // The way is open: now whether full packets pass it.
  return info.answeredAt === null && sizeBytes === 0 ? check(known, next, event.at, effects) : known;
}

/** A check from where nobody said the peer would be is an address that its router gave it: it is checked in turn. */
function asked(state: PathState, event: Extract<PathEvent, { kind: "asked" }>, effects: PathEffect[]): PathState {
  const { at, target, nominated } = event;
  const room = state.paths.has(target.key) ? state : withRoom(state, at);
  if (room === null) return state;
  let info: PathInfo = { ...(room.paths.get(target.key) ?? fresh(target)), askedAt: at };
  if (nominated) info = { ...info, nominatedAt: at };
  const next = withInfo(room, info);
  if (isAnswering(info, at) || at - info.checkedAt < ASKED_GAP_MS) return next;
  return check(next, info, at, effects);
}

/** Without the path that was of use longest ago; null when all are of use. */
function withRoom(state: PathState, at: number): PathState | null {
  if (state.paths.size < MOST_PATHS) return state;
  const age = ({ answeredAt, askedAt }: PathInfo): number => Math.max(answeredAt ?? -1, askedAt ?? -1);
  const idle = [...state.paths.values()].filter((info) => info.target.key !== state.current && !isAlive(info, at));
  const [oldest] = idle.toSorted((a, b) => age(a) - age(b));
  if (oldest === undefined) return null;
  const paths = new Map(state.paths);
  paths.delete(oldest.target.key);
  return { ...state, paths };
}

/** One check in the size that is known to pass; before there is such a size a small one and, once that is answered, one of each size. */
function check(state: PathState, info: PathInfo, at: number, effects: PathEffect[]): PathState {
  const { target } = info;
  const nominate = state.chooses && target.key === state.current;
  const send = (sizeBytes: number | null): void => void effects.push({ kind: "check", target, nominate, sizeBytes });
  const grows = info.sizeBytes > 0 && info.sizeBytes < FULL_BYTES && at - info.grownAt >= GROW_MS;
  const sizing = info.sizeBytes === 0 && info.answeredAt !== null;
  if (info.sizeBytes > 0) send(info.sizeBytes);
  else send(null);
  if (sizing) send(wantedSize(info));
  if (grows) send(FULL_BYTES);
  return withInfo(state, {
    ...info,
    checkedAt: at,
    unanswered: info.unanswered + 1,
    firstUnansweredAt: info.firstUnansweredAt ?? at,
    sizeMisses: sizing ? info.sizeMisses + 1 : info.sizeMisses,
    grownAt: grows ? at : info.grownAt,
  });
}

function tick(state: PathState, event: Tick, effects: PathEffect[]): PathState {
  const { at } = event;
  let next = state;
  if (event.sent || event.received) {
    const isLone = at - state.trafficAt > Math.min(LONE_MS, LONE_SHARE * event.idleMs);
    next = { ...next, trafficAt: at, activeAt: isLone ? next.activeAt : at };
  }
  const isElsewhere = state.current === "wss" || at - state.relayedAt < MOVE_GRACE_MS;
  if (event.received && !isElsewhere) next = { ...next, silentSince: null, heardAt: at };
  else if (event.sent && state.current !== "wss") next = { ...next, silentSince: next.silentSince ?? at };
  next = burst(next, at, effects);
  for (const info of [...next.paths.values()]) {
    if (isDue(next, info, event)) next = check(next, info, at, effects);
  }
  return next;
}

function burst(state: PathState, at: number, effects: PathEffect[]): PathState {
  if (state.burst === null) return state;
  const { startAt, sent, rounds } = state.burst;
  const due = BURST_MS.filter((offset, i) => i < rounds && at >= startAt + offset).length;
  if (due <= sent) return state;
  let next: PathState = { ...state, burst: due >= rounds ? null : { startAt, sent: due, rounds } };
  for (const info of [...next.paths.values()]) if (!isAnswering(info, at)) next = check(next, info, at, effects);
  return next;
}

/** Keepalives of the current path and of those that may have to take over; often while the current one is suspect. */
function isDue(state: PathState, info: PathInfo, { at, idleMs }: Tick): boolean {
  const since = at - info.checkedAt;
  const isCurrent = info.target.key === state.current;
  const current = state.paths.get(state.current) ?? null;
  if (isSuspect(state, current, at) && (isCurrent || isUsable(info, at))) return since >= suspectPaceMs(info);
  if (isCurrent && needsProof(state, info, at)) return true;
  if (!isAnswering(info, at)) {
    return info.lostAt !== null && at - info.lostAt < LOST_MS && since >= LOST_CHECK_MS;
  }
  if (info.sizeBytes === 0 && !isNarrow(info)) {
    return since >= Math.max(SIZE_PACE_MS, 1.2 * (info.rttMs ?? 0));
  }
  if (isCurrent && state.chooses && at - state.since < TELL_FOR_MS) return since >= TELL_MS;
  if (info.unanswered > 0 && since >= Math.max(CHECK_MISSED_MS, 3 * (info.rttMs ?? 0))) return true;
  const isActive = at - state.activeAt < ACTIVE_MS;
  return since >= (isCurrent && isActive ? Math.min(CHECK_ACTIVE_MS, idleMs) : idleMs);
}

/** To the relay, until the peer chooses anew; what is known of the paths stays. */
function follow(state: PathState, at: number, effects: PathEffect[]): PathState {
  const reason = "the peer uses the relay";
  effects.push({ kind: "use", to: null, from: state.paths.get(state.current) ?? null, fromDead: false, reason });
  const paths = new Map([...state.paths].map(([key, info]) => [key, { ...info, nominatedAt: null }]));
  return { ...state, paths, current: "wss", since: at, reason, silentSince: null, relayedAt: at };
}

/**
 * To the best path that answered while the current one did not, or to the relay; what else was known is in doubt. The same state
 * when there is neither.
 */
function fallBack(state: PathState, reason: string, at: number, effects: PathEffect[]): PathState {
  const from = state.paths.get(state.current) ?? null;
  const doubtAt = from?.firstUnansweredAt ?? at;
  const paths = new Map<string, PathInfo>();
  let to: PathInfo | null = null;
  for (const [key, info] of state.paths) {
    const isSure = info !== from && isUsable(info, at) && (info.answeredAt ?? 0) >= doubtAt;
    if (isSure && state.chooses && (to === null || isBetter(info, to))) to = info;
    paths.set(key, isSure || (info !== from && info.sizeBytes === 0) ? info : forgotten(info, at));
  }
  if (to === null && !state.canRelay) return state;
  // What the peer still sends by one that answers no checks is taken until the peer has followed; one that fell silent is over.
  const fromDead = to === null || isSuspect(state, from, at) || !isArriving(state, at);
  effects.push({ kind: "use", to, from, fromDead, reason });
  const current = to?.target.key ?? "wss";
  const again = { startAt: at, sent: 0, rounds: BURST_MS.length };
  const next = { ...state, paths, current, since: at, reason, silentSince: null, burst: state.burst ?? again };
  return to === null ? next : check(next, to, at, effects);
}

function choose(state: PathState, at: number, effects: PathEffect[]): PathState {
  const current = state.paths.get(state.current) ?? null;
  if (current !== null && isDead(state, current, others(state, current), at)) {
    const reason = `${current.target.kind} path by ${current.target.key} stopped answering`;
    const fallen = fallBack(state, reason, at, effects);
    if (fallen !== state) return fallen;
  }
  const best = state.chooses ? bestPath(state, current, at) : nominated(state, at);
  if (best === null || best === current) return state;
  const reason = `${best.target.kind} path by ${best.target.key} answered`;
  effects.push({ kind: "use", to: best, from: current, fromDead: false, reason });
  const next = { ...state, current: best.target.key, since: at, reason, silentSince: null };
  // The peer learns of the choice by a nominated check.
  return state.chooses ? check(next, best, at, effects) : next;
}

function others({ paths }: PathState, current: PathInfo): readonly PathInfo[] {
  return [...paths.values()].filter((info) => info !== current);
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
    if (info === best || !isUsable(info, at) || at - (info.answeredAt ?? 0) > FRESH_MS) continue;
    if (best === null || isBetter(info, best)) best = info;
  }
  return best;
}
