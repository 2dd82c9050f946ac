// Whether the path in use is alive, from the traffic on it and the checks that are answered: pure.
//
//   packets arrive            it lives, whoever answers checks: the peer's process may be gone while its WireGuard goes on
//   they stop, or go out alone   one check, at once
//   that is not answered      it is suspect, and checked again and again
//   nor are those             it is dead, within half a second
//
// A slow peer has as much time as its round trip takes, three times over; a silent one answers checks.
import { type PathInfo, TRUST_MS } from "./path-info.ts";

/** What is seen of the path in use, in milliseconds of one clock. */
export interface PathSigns {
  /** Packets go out and none come back, since then. */
  readonly silentSince: number | null;
  /** Packets last came in on it. */
  readonly heardAt: number;
  readonly trafficAt: number;
  /** More than a lone keepalive went through. */
  readonly activeAt: number;
}

/** Traffic that waits this long for any answer makes the path suspect. */
export const SUSPECT_MS = 250;
export const SUSPECT_CHECK_MS = 60;
/** One that is suspect and still not given up, as there is nothing to go to, is checked so often in the long run. */
const SUSPECT_LATER_MS = 1_000;
const SUSPECT_CHECKS = 12;
/** Packets that go out alone cause a check no more often than this: a stream in one direction has no answer to wait for. */
const PROOF_APART_MS = 250;
/** Traffic that stops for this long causes one check. */
const PAUSE_MS = 300;
/** Traffic that was longer ago is over. */
const RECENT_MS = 10_000;
/** An answer that is late by this is missed while traffic waits. */
const LATE_MS = 100;
/** A suspect path is dead after so many checks, over at least so long, without an answer. */
const DEAD_CHECKS = 4;
const DEAD_MS = 350;
const ARRIVING_MS = 1_000;
/** WireGuard's own keepalives come every 25 s: a path that brings them carries packets. */
const FLOWING_MS = 30_000;

export function isSuspect(signs: PathSigns, info: PathInfo | null, at: number): boolean {
  if (signs.silentSince !== null && at - signs.silentSince >= SUSPECT_MS) return true;
  if (info?.firstUnansweredAt == null || at - signs.trafficAt > RECENT_MS) return false;
  return signs.heardAt < info.firstUnansweredAt && at - info.firstUnansweredAt >= Math.max(LATE_MS, 2 * rtt(info));
}

/** How long after one check of a suspect path the next one is due. */
export function suspectPaceMs(info: PathInfo): number {
  return info.unanswered < SUSPECT_CHECKS ? SUSPECT_CHECK_MS : SUSPECT_LATER_MS;
}

/** True when traffic gives reason for a check that its own pace does not ask for yet. */
export function needsProof({ silentSince, heardAt, activeAt }: PathSigns, info: PathInfo, at: number): boolean {
  if (silentSince !== null) return at - info.checkedAt >= PROOF_APART_MS;
  const pausedAt = heardAt + PAUSE_MS;
  return at >= pausedAt && at - activeAt < RECENT_MS && info.checkedAt < pausedAt;
}

/**
 * `others`: all other paths to the peer. A path by which packets still arrive, and no checks, as by the relay of an earlier session, is
 * given up only for one that answers since, and by the end that chooses: the other would drop what the first still sends by it.
 */
export function isDead(
  signs: PathSigns & { readonly chooses: boolean },
  info: PathInfo,
  others: Iterable<PathInfo>,
  at: number,
): boolean {
  if (info.unanswered < DEAD_CHECKS || info.firstUnansweredAt === null) return false;
  const since = info.firstUnansweredAt;
  const waited = at - since;
  const patience = Math.max(DEAD_MS, 3 * rtt(info));
  if (isSuspect(signs, info, at)) return waited >= patience;
  if (waited < Math.max(TRUST_MS, patience)) return false;
  const isOneWay = (info.askedAt ?? -1) > since; // its checks come, and ours or their answers get lost
  if (isArriving(signs, at)) return isOneWay || (signs.chooses && answersSince([...others], since));
  const isFlowing = at - signs.heardAt < FLOWING_MS;
  return !isFlowing || isHeardFrom(info, others, since);
}

/** Packets come in on it, as far as a busy machine has looked; when they end, silence and checks tell. */
export function isArriving({ heardAt }: PathSigns, at: number): boolean {
  return at - heardAt < ARRIVING_MS;
}

function answersSince(others: readonly PathInfo[], since: number): boolean {
  return others.some(({ sizeBytes, answeredAt }) => sizeBytes > 0 && (answeredAt ?? -1) > since);
}

/** The peer's process lives: it has asked us, or answered on another path, since then. */
function isHeardFrom(info: PathInfo, others: Iterable<PathInfo>, since: number): boolean {
  if ((info.askedAt ?? -1) > since) return true;
  for (const { askedAt, answeredAt } of others) if (Math.max(askedAt ?? -1, answeredAt ?? -1) > since) return true;
  return false;
}

function rtt(info: PathInfo): number {
  return info.rttMs ?? 100;
}
