// Where the two ends of a relayed session are, and what goes from one to the other: pure, and the same for kernel and process.
//
//   a request of an end, from an address ──challenge──► that very address ──answer──► latched there
//   both ends latched ──forward──► the mechanism ──forwarding──► linked: what comes from the one goes to the other
//   answers on both sides ──renew──► the lease of a link
//
// Nothing but an answer to a challenge of our own latches or keeps an end: a packet with a false sender moves nobody. An end that
// moved is latched anew in the same way, once its old address leaves a challenge unanswered. Requests and answers are given here
// only after their integrity was checked under the key of that end.
import { toHex } from "../../base/bytes.ts";
import { type Endpoint, type Family, familyOf } from "../../base/ip.ts";

/** In the order of the session's ends. */
export type End = 0 | 1;

/** What comes from one of them goes to the other. */
export interface Link {
  readonly ends: readonly [Endpoint, Endpoint];
}

interface Latch {
  readonly endpoint: Endpoint;
  readonly since: number;
  readonly answeredAt: number;
  readonly askedAt: number;
  /** A challenge has been waiting since then; null when the last one was answered. */
  readonly doubtSince: number | null;
}

/** Another address from which an end has spoken; it takes over when the old one does not answer. */
interface Suitor {
  readonly endpoint: Endpoint;
  readonly seenAt: number;
  readonly isVerified: boolean;
}

interface Challenge {
  readonly end: End;
  readonly to: Endpoint;
  readonly sentAt: number;
}

type PerEnd<T> = readonly [T, T];
type Latches = Readonly<Record<Family, Latch | null>>;

interface ActiveLink extends Link {
  readonly renewedAt: number;
}

export interface RelayState {
  /** What the mechanism relays best: others are linked only where no such link can be had. */
  readonly native: ReadonlySet<Family>;
  readonly latches: PerEnd<Latches>;
  readonly suitors: PerEnd<readonly Suitor[]>;
  /** By transaction id in hex, oldest first. */
  readonly challenges: ReadonlyMap<string, Challenge>;
  /** What the mechanism was told last. */
  readonly wanted: readonly Link[];
  /** What the mechanism said it does, as far as it is still wanted. */
  readonly active: readonly ActiveLink[];
}

interface Said {
  readonly end: End;
  readonly from: Endpoint;
  readonly transactionId: Uint8Array;
}

interface EventBase {
  /** Milliseconds of a clock that only goes forward. */
  readonly at: number;
  /** 12 random bytes, fresh at each call. */
  readonly nextId: () => Uint8Array;
}

export type RelayEvent = EventBase &
  (
    | ({ readonly kind: "request" | "answer" } & Said)
    /** The mechanism does what `forward` asked for. */
    | { readonly kind: "forwarding"; readonly links: readonly Link[] }
    | { readonly kind: "tick" }
  );

export type RelayEffect =
  | ({ readonly kind: "challenge" | "answer" } & Message)
  /** The whole of what shall be forwarded for this session, in the place of what was before. */
  | { readonly kind: "forward" | "renew"; readonly links: readonly Link[] };

interface Message {
  readonly end: End;
  readonly to: Endpoint;
  readonly transactionId: Uint8Array;
}

/** An end that has answered nothing for so long is nowhere. */
export const LEASE_MS = 120_000;
export const RENEW_MS = 20_000;
const ASK_AGAIN_MS = 2_000;
/** An address that leaves a challenge unanswered for so long gives way to one that answers. */
export const DOUBT_MS = 600;
const CHALLENGE_MS = 5_000;
const MOST_CHALLENGES = 24;
const SUITOR_MS = 10_000;
const MOST_SUITORS = 4;
/** Ends that have no native family in common wait this long for one. */
export const MIXED_MS = 1_000;

const NOWHERE: Latches = { 4: null, 6: null };

export function freshRelay(native: ReadonlySet<Family>): RelayState {
  return { native, latches: [NOWHERE, NOWHERE], suitors: [[], []], challenges: new Map(), wanted: [], active: [] };
}

export interface RelayStepped {
  readonly state: RelayState;
  readonly effects: readonly RelayEffect[];
}

export function stepRelay(state: RelayState, event: RelayEvent): RelayStepped {
  const step = new Step(state, event);
  switch (event.kind) {
    case "request":
      step.request(event);
      break;
    case "answer":
      step.answer(event);
      break;
    case "forwarding":
      step.forwarding(event.links);
      break;
    case "tick":
      step.tick();
      break;
  }
  return step.done();
}

export function sameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && a.address === b.address;
}

export function sameLink(a: Link, b: Link): boolean {
  return sameEndpoint(a.ends[0], b.ends[0]) && sameEndpoint(a.ends[1], b.ends[1]);
}

/**
 * One link for each native family in which both ends are latched. Where there is none, after a while one in another family, or
 * between two; a link in one family that is there stays, also when a native one comes, as the ends may be using it.
 */
function linksOf({ latches: [a, b], native, wanted }: RelayState, at: number): readonly Link[] {
  const links: Link[] = [];
  const later: Link[] = [];
  for (const family of [4, 6] as const) {
    const [one, other] = [a[family], b[family]];
    if (one === null || other === null) continue;
    const link: Link = { ends: [one.endpoint, other.endpoint] };
    if (native.has(family) || wanted.some((known) => sameLink(known, link))) links.push(link);
    else if (at - Math.max(one.since, other.since) >= MIXED_MS) later.push(link);
  }
  if (links.length > 0) return links;
  const [one, other] = [a[4] ?? a[6], b[4] ?? b[6]];
  if (later.length > 0 || one === null || other === null || hasCommon(a, b)) return later;
  return at - Math.max(one.since, other.since) < MIXED_MS ? [] : [{ ends: [one.endpoint, other.endpoint] }];
}

function hasCommon(a: Latches, b: Latches): boolean {
  return ([4, 6] as const).some((family) => a[family] !== null && b[family] !== null);
}

/** A copy of the state that one event works on. */
class Step {
  readonly #at: number;
  readonly #nextId: () => Uint8Array;
  readonly #latches: [Latches, Latches];
  readonly #suitors: [readonly Suitor[], readonly Suitor[]];
  readonly #challenges: Map<string, Challenge>;
  readonly #effects: RelayEffect[] = [];
  readonly #native: ReadonlySet<Family>;
  #wanted: readonly Link[];
  #active: readonly ActiveLink[];

  constructor(state: RelayState, event: EventBase) {
    this.#at = event.at;
    this.#nextId = event.nextId;
    this.#native = state.native;
    this.#latches = [...state.latches];
    this.#suitors = [...state.suitors];
    this.#challenges = new Map(state.challenges);
    this.#wanted = state.wanted;
    this.#active = state.active;
  }

  request({ end, from, transactionId }: Said): void {
    this.#effects.push({ kind: "answer", end, to: from, transactionId });
    const latch = this.#latchOf(end, from);
    if (latch === null || !sameEndpoint(latch.endpoint, from)) this.#court(end, from);
  }

  answer({ end, from, transactionId }: Said): void {
    const id = toHex(transactionId);
    const challenge = this.#challenges.get(id);
    if (challenge === undefined || challenge.end !== end) return;
    this.#challenges.delete(id);
    if (!sameEndpoint(challenge.to, from)) {
      this.#court(end, from); // it moved while the challenge was on its way
      return;
    }
    const latch = this.#latchOf(end, from);
    if (latch !== null && sameEndpoint(latch.endpoint, from)) {
      this.#setLatch(end, from, { ...latch, answeredAt: this.#at, doubtSince: null });
      this.#dismiss(end, from);
    } else if (latch === null || this.#isDoubtful(latch)) {
      this.#latch(end, from);
    } else {
      const known = this.#suitors[end].filter((suitor) => !sameEndpoint(suitor.endpoint, from));
      this.#suitors[end] = [...known, { endpoint: from, seenAt: this.#at, isVerified: true }];
    }
  }

  forwarding(links: readonly Link[]): void {
    const before = this.#active;
    this.#active = links
      .filter((link) => this.#wanted.some((wanted) => sameLink(wanted, link)))
      .map((link) => before.find((one) => sameLink(one, link)) ?? { ends: link.ends, renewedAt: this.#at });
  }

  tick(): void {
    for (const [id, challenge] of this.#challenges) {
      if (this.#at - challenge.sentAt >= CHALLENGE_MS) this.#challenges.delete(id);
    }
    for (const end of [0, 1] as const) {
      this.#suitors[end] = this.#suitors[end].filter((suitor) => this.#at - suitor.seenAt < SUITOR_MS);
      for (const family of [4, 6] as const) this.#tend(end, family);
    }
    const due = this.#active.filter((link) => this.#at - link.renewedAt >= RENEW_MS && this.#answeredSince(link));
    if (due.length === 0) return;
    this.#active = this.#active.map((link) => (due.includes(link) ? { ...link, renewedAt: this.#at } : link));
    this.#effects.push({ kind: "renew", links: due.map(({ ends }) => ({ ends })) });
  }

  done(): RelayStepped {
    const wanted = linksOf(this.#state(), this.#at);
    if (wanted.length !== this.#wanted.length || !wanted.every((link, i) => sameLink(link, this.#wanted[i] ?? link))) {
      this.#wanted = wanted;
      this.#active = this.#active.filter((link) => wanted.some((one) => sameLink(one, link)));
      this.#effects.push({ kind: "forward", links: wanted });
    }
    return { state: this.#state(), effects: this.#effects };
  }

  #state(): RelayState {
    return {
      native: this.#native,
      latches: this.#latches,
      suitors: this.#suitors,
      challenges: this.#challenges,
      wanted: this.#wanted,
      active: this.#active,
    };
  }

  #latchOf(end: End, at: Endpoint): Latch | null {
    return this.#latches[end][familyOf(at.address)];
  }

  #setLatch(end: End, at: Endpoint, latch: Latch | null): void {
    this.#latches[end] = { ...this.#latches[end], [familyOf(at.address)]: latch };
  }

  #latch(end: End, endpoint: Endpoint): void {
    const now = this.#at;
    this.#setLatch(end, endpoint, { endpoint, since: now, answeredAt: now, askedAt: now, doubtSince: null });
    this.#dismiss(end, endpoint);
  }

  /** Suitors of the endpoint's family have no prospects. */
  #dismiss(end: End, at: Endpoint): void {
    const family = familyOf(at.address);
    this.#suitors[end] = this.#suitors[end].filter((suitor) => familyOf(suitor.endpoint.address) !== family);
  }

  /** An end spoke from an address where it is not latched: whether it is there is asked, and whether it is still where it was. */
  #court(end: End, endpoint: Endpoint): void {
    const known = this.#suitors[end].find((suitor) => sameEndpoint(suitor.endpoint, endpoint));
    const others = this.#suitors[end].filter((suitor) => suitor !== known).slice(-(MOST_SUITORS - 1));
    this.#suitors[end] = [...others, { endpoint, seenAt: this.#at, isVerified: known?.isVerified ?? false }];
    this.#challenge(end, endpoint);
    const latch = this.#latchOf(end, endpoint);
    if (latch !== null && latch.doubtSince === null) this.#challenge(end, latch.endpoint);
  }

  #tend(end: End, family: Family): void {
    const latch = this.#latches[end][family];
    if (latch === null) return;
    const suitor = this.#suitors[end].find((one) => one.isVerified && familyOf(one.endpoint.address) === family);
    if (suitor !== undefined && this.#isDoubtful(latch)) {
      this.#latch(end, suitor.endpoint);
    } else if (this.#at - latch.answeredAt >= LEASE_MS) {
      this.#setLatch(end, latch.endpoint, null);
    } else if (this.#at - latch.answeredAt >= RENEW_MS && this.#at - latch.askedAt >= ASK_AGAIN_MS) {
      this.#challenge(end, latch.endpoint);
    }
  }

  #isDoubtful(latch: Latch): boolean {
    return latch.doubtSince !== null && this.#at - latch.doubtSince >= DOUBT_MS;
  }

  #answeredSince(link: ActiveLink): boolean {
    return ([0, 1] as const).every((end) => {
      const latch = this.#latchOf(end, link.ends[end]);
      return latch !== null && latch.answeredAt > link.renewedAt;
    });
  }

  #challenge(end: End, to: Endpoint): void {
    const transactionId = this.#nextId();
    this.#challenges.set(toHex(transactionId), { end, to, sentAt: this.#at });
    for (const id of this.#challenges.keys()) {
      if (this.#challenges.size <= MOST_CHALLENGES) break;
      this.#challenges.delete(id);
    }
    const latch = this.#latchOf(end, to);
    if (latch !== null && sameEndpoint(latch.endpoint, to)) {
      this.#setLatch(end, to, { ...latch, askedAt: this.#at, doubtSince: latch.doubtSince ?? this.#at });
    }
    this.#effects.push({ kind: "challenge", end, to, transactionId });
  }
}
