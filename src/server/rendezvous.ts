// Brings the two ends of a session together: passes on where each may be reached, and says when both start, at one and the same instant.
//
//   candidates of A ─► kept, checked, passed on to B      both known ─► punch to A in T - rtt(A)/2, to B in T - rtt(B)/2
//   T is now and 1.5 times the longer round trip: enough for both to be told, candidates and all.
import { type Cidr, cidrContains, parseCidr, parseEndpoint } from "../base/ip.ts";
import type { ServerMessage } from "../proto/control.ts";
import type { MachineId } from "../proto/keys.ts";
import { type Candidate, MOST_CANDIDATES, MOST_PUNCH_WAIT_MS, type Nat } from "../proto/path.ts";
import type { RelaySession } from "./relay/sessions.ts";

/** A machine's control connection. */
export interface Channel {
  send(message: ServerMessage): void;
  /** Null before it was measured. */
  readonly roundTripMs: number | null;
}

export interface RendezvousDeps {
  /** Null while the machine is away. */
  readonly channelOf: (machine: MachineId) => Channel | null;
  /** The STUN responder has just seen the machine there. */
  readonly wasSeen: (machine: MachineId, endpoint: string) => boolean;
}

interface Offer {
  readonly round: number;
  readonly candidates: readonly Candidate[];
  readonly nat: Nat | undefined;
  /** By which the offer came, and by which the other end has heard of it. */
  readonly from: Channel;
  readonly toldTo: Channel | null;
}

interface Meeting {
  readonly offers: [Offer | null, Offer | null];
  /** Rounds as the other end is told them: they grow, also when a machine starts anew and counts from 1 again. */
  readonly told: [number, number];
  punchedAt: number;
  timer: ReturnType<typeof setTimeout> | null;
}

/** Until a round trip was measured: half of the world away. */
const UNKNOWN_RTT_MS = 200;
const SPREAD = 1.5;
/** A new round that comes sooner starts with the next punch. */
const PUNCH_APART_MS = 500;

export class Rendezvous {
  readonly #deps: RendezvousDeps;
  readonly #meetings = new Map<number, Meeting>();

  constructor(deps: RendezvousDeps) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#meetings.size;
  }

  /** Ignored unless the machine is an end of the session. */
  offer(
    session: RelaySession,
    machine: MachineId,
    offer: { round: number; candidates: readonly Candidate[]; nat?: Nat | undefined },
  ): void {
    const end = endOf(session, machine);
    const from = this.#deps.channelOf(machine);
    if (end === null || from === null) return;
    const meeting = this.#meetingOf(session.id);
    const before = meeting.offers[end];
    if (before !== null && before.from === from && offer.round < before.round) return;
    const candidates = passable(offer.candidates, (endpoint) => this.#deps.wasSeen(machine, endpoint));
    meeting.told[end] = Math.max(meeting.told[end] + 1, offer.round);
    meeting.offers[end] = { round: offer.round, candidates, nat: offer.nat, from, toldTo: null };
    for (const one of [0, 1] as const) this.#tell(session, meeting, one);
    this.#punch(session, meeting);
  }

  /** Ignored unless the machine is an end of the session and both have made their offers. */
  punchRequest(session: RelaySession, machine: MachineId): void {
    const meeting = this.#meetings.get(session.id);
    if (meeting !== undefined && endOf(session, machine) !== null) this.#punch(session, meeting);
  }

  end(session: number): void {
    const meeting = this.#meetings.get(session);
    if (meeting?.timer != null) clearTimeout(meeting.timer);
    this.#meetings.delete(session);
  }

  #meetingOf(session: number): Meeting {
    const known = this.#meetings.get(session);
    if (known !== undefined) return known;
    const meeting: Meeting = { offers: [null, null], told: [0, 0], punchedAt: Number.NEGATIVE_INFINITY, timer: null };
    this.#meetings.set(session, meeting);
    return meeting;
  }

  /** The other end hears of an offer once by each connection. */
  #tell(session: RelaySession, meeting: Meeting, end: 0 | 1): void {
    const offer = meeting.offers[end];
    const to = this.#deps.channelOf(session.ends[end === 0 ? 1 : 0]);
    if (offer === null || to === null || offer.toldTo === to) return;
    meeting.offers[end] = { ...offer, toldTo: to };
    const candidates = offer.candidates.map((candidate) => ({ ...candidate }));
    const nat = offer.nat === undefined ? {} : { nat: offer.nat };
    to.send({ type: "candidates", session: session.id, round: meeting.told[end], candidates, ...nat });
  }

  #punch(session: RelaySession, meeting: Meeting): void {
    if (meeting.timer !== null || meeting.offers.includes(null)) return;
    const now = performance.now();
    const waitMs = meeting.punchedAt + PUNCH_APART_MS - now;
    if (waitMs > 0) {
      meeting.timer = setTimeout(() => {
        meeting.timer = null;
        this.#punch(session, meeting);
      }, waitMs);
      return;
    }
    const channels = session.ends.map((machine) => this.#deps.channelOf(machine));
    const [a, b] = channels;
    if (a == null || b == null) return; // whoever is away makes a new offer when it is back
    meeting.punchedAt = now;
    const roundTrips = [a, b].map((channel) => channel.roundTripMs ?? UNKNOWN_RTT_MS);
    const inMs = SPREAD * Math.max(...roundTrips);
    for (const [i, channel] of [a, b].entries()) {
      const wait = Math.min(MOST_PUNCH_WAIT_MS, Math.max(0, inMs - (roundTrips[i] ?? 0) / 2));
      channel.send({ type: "punch", session: session.id, round: meeting.offers[i]?.round ?? 1, inMs: wait });
    }
  }
}

function endOf(session: RelaySession, machine: MachineId): 0 | 1 | null {
  if (session.ends[0] === machine) return 0;
  return session.ends[1] === machine ? 1 : null;
}

/** Nobody, this host, everybody, and links that a router does not leave. */
const NEVER: readonly Cidr[] = [
  "0.0.0.0/8",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "224.0.0.0/3",
  "::/127",
  "fe80::/10",
  "ff00::/8",
].flatMap((text) => parseCidr(text) ?? []);

/**
 * What an end may be told of the other: at most 16 places, each once, none where nothing of another machine can be. What is foreseen
 * is so only at an address where the machine was just seen.
 */
export function passable(
  candidates: readonly Candidate[],
  wasSeen: (endpoint: string) => boolean,
): readonly Candidate[] {
  const known = new Set<string>();
  const passed: Candidate[] = [];
  for (const { kind, endpoint } of candidates) {
    const address = parseEndpoint(endpoint)?.address;
    if (address === undefined || known.has(endpoint) || passed.length >= MOST_CANDIDATES) continue;
    if (NEVER.some((prefix) => cidrContains(prefix, address))) continue;
    known.add(endpoint);
    const isSeen = (kind === "reflexive" || kind === "fresh") && wasSeen(endpoint);
    passed.push(isSeen ? { kind, endpoint, seen: true } : { kind, endpoint });
  }
  const seenAt = new Set(passed.filter(({ seen }) => seen === true).map(addressOf));
  return passed.filter((one) => one.kind !== "predicted" || seenAt.has(addressOf(one)));
}

function addressOf({ endpoint }: Candidate): string | undefined {
  return parseEndpoint(endpoint)?.address;
}
