// What is known of one path: when it answered, in which sizes, and which of two is better: pure.
import { type Endpoint, familyOf, formatEndpoint } from "../base/ip.ts";
import { FULL_BYTES, SMALLER_BYTES } from "./path-check.ts";

export type PathKind = "direct" | "udp-relay" | "wss";

export interface PathTarget {
  /** The endpoint as text, with the side port, if there is one. */
  readonly key: string;
  readonly kind: "direct" | "udp-relay";
  readonly endpoint: Endpoint;
  /** Both ends in one LAN, by the look of the address. */
  readonly lan: boolean;
  /** The side port of ours by which the peer is reached there; without it WireGuard's own. */
  readonly via?: number | undefined;
}

/** Where a path ends at the peer, and by which side port of ours it goes; without one by WireGuard's. */
export interface Place extends Endpoint {
  readonly via?: number | undefined;
}

export function placeKey(place: Place): string {
  const text = formatEndpoint(place);
  return place.via === undefined ? text : `${text} via ${place.via}`;
}

export function placeOf({ endpoint, via }: PathTarget): Place {
  return via === undefined ? endpoint : { ...endpoint, via };
}

export interface PathInfo {
  readonly target: PathTarget;
  readonly rttMs: number | null;
  readonly answeredAt: number | null;
  /** Largest check that was answered in the same size, in bytes of UDP payload; 0 for none of the sizes that count. */
  readonly sizeBytes: number;
  /** Since the last answer. */
  readonly unanswered: number;
  readonly firstUnansweredAt: number | null;
  readonly checkedAt: number;
  /** Checks of a size that went unanswered while small ones were answered. */
  readonly sizeMisses: number;
  /** When a size that got lost before was tried last. */
  readonly grownAt: number;
  /** The peer chose it, at that time. */
  readonly nominatedAt: number | null;
  /** The peer sent a check from there, at that time. */
  readonly askedAt: number | null;
  /** It answered once and was given up then: it is tried again before others. */
  readonly lostAt: number | null;
}

/** An answered path is believed for this long without another answer. */
export const TRUST_MS = 6_500;
/** The longest silence on a path that is kept open; the router's own limit is measured (keepalive.ts). */
export const LONGEST_IDLE_MS = 25_000;
/** Another direct path must be better by this much, so that two alike do not alternate. */
const BETTER_MS = 1;
const BETTER_RATIO = 0.85;
/** IPv6 has no NAT that could forget it: it may be slower by this much, and is left only for an IPv4 that is faster by more. */
const SIX_RATIO = 1.1;
/** What nobody notices, and what one slow answer makes of a fast path. */
const SIX_MS = 5;
const FOUR_RATIO = 0.75;
const SIZES: readonly number[] = [FULL_BYTES, ...SMALLER_BYTES];
/** Checks of a size that may be lost before a smaller one is tried. */
const SIZE_TRIES = 3;

export function fresh(target: PathTarget): PathInfo {
  return {
    target,
    rttMs: null,
    answeredAt: null,
    sizeBytes: 0,
    unanswered: 0,
    firstUnansweredAt: null,
    checkedAt: Number.NEGATIVE_INFINITY,
    sizeMisses: 0,
    grownAt: Number.NEGATIVE_INFINITY,
    nominatedAt: null,
    askedAt: null,
    lostAt: null,
  };
}

/** One that carries the tunnel already, as far as anybody knows; full packets are taken to pass until checks of that size do not. */
export function adopted(target: PathTarget, at: number): PathInfo {
  return { ...fresh(target), answeredAt: at, sizeBytes: FULL_BYTES };
}

/** How long an answer took stays: it says how long the next one may take. */
export function forgotten(info: PathInfo, at: number): PathInfo {
  const { rttMs, nominatedAt, askedAt } = info;
  const lostAt = info.answeredAt === null ? info.lostAt : at;
  return { ...fresh(info.target), rttMs, nominatedAt, askedAt, lostAt };
}

export function isAlive(info: PathInfo, at: number): boolean {
  return isAnswering(info, at) || (info.askedAt !== null && at - info.askedAt <= TRUST_MS);
}

/** Every size was tried, and none passed. */
export function isNarrow(info: PathInfo): boolean {
  return info.sizeBytes === 0 && info.sizeMisses >= SIZES.length * SIZE_TRIES;
}

/** Full size first; smaller ones once small checks are answered and full ones are not; and all over again. */
export function wantedSize(info: PathInfo): number {
  return SIZES[Math.floor(info.sizeMisses / SIZE_TRIES) % SIZES.length] ?? FULL_BYTES;
}

export function isAnswering(info: PathInfo, at: number): boolean {
  return info.answeredAt !== null && at - info.answeredAt <= 2 * LONGEST_IDLE_MS + TRUST_MS;
}

/** A path that was given up is tried for so long. */
export const LOST_MS = 300_000;

/** Something comes by it, or did and may again. */
export function isTried(info: PathInfo, at: number): boolean {
  return isAlive(info, at) || (info.lostAt !== null && at - info.lostAt <= LOST_MS);
}

export function isUsable(info: PathInfo, at: number): boolean {
  return info.sizeBytes > 0 && isAnswering(info, at);
}

export function isBetter(a: PathInfo, b: PathInfo): boolean {
  if (a.target.kind !== b.target.kind) return a.target.kind === "direct";
  if (a.sizeBytes !== b.sizeBytes) return a.sizeBytes > b.sizeBytes;
  if (a.target.lan !== b.target.lan) return a.target.lan;
  const [rttA, rttB] = [a.rttMs ?? 1e9, b.rttMs ?? 1e9];
  const [familyA, familyB] = [familyOf(a.target.endpoint.address), familyOf(b.target.endpoint.address)];
  if (familyA > familyB) return rttA <= rttB * SIX_RATIO + SIX_MS;
  if (familyA < familyB) return rttA < rttB * FOUR_RATIO - SIX_MS;
  return rttA < rttB * BETTER_RATIO && rttA < rttB - BETTER_MS;
}
