// What is tried when opening at the same instant was not enough: fresh ports, foreseen ports, guessed ports. Pure.
//
// this end's router \ the peer's   steady                          another port for each destination
//   steady                         fresh; guessed, if it is        the peer acts; its open ports are guessed here
//                                  "independent" and so may be
//                                  another port all the same
//   sequential                     predicted; guessed              nothing
//   random                         guessed                         nothing
import { type Endpoint, formatEndpoint, type IpAddress } from "../base/ip.ts";
import { type Nat, MOST_OPEN_PORTS } from "../proto/path.ts";
import type { Reflexive } from "./stun-client.ts";

export type NatMapping = Nat["mapping"];
/** In this order. */
export type Stage = "fresh" | "predicted" | "guessed";

/** For `higgs why`: what the last search by other ports was. */
export interface SideView {
  readonly own: NatMapping | null;
  /** Null: the peer has not told. */
  readonly peer: NatMapping | null;
  readonly tried: readonly Stage[];
  /** By which the direct path was found; null for none of them. */
  readonly found: Stage | null;
  /** Ports of the peer that were tried in the last search; 0 for none. */
  readonly probes: number;
  /** A person wants no ports guessed. */
  readonly off: "here" | "peer" | null;
}

/** Guesses are foreseen so far: other flows of the same router take numbers too. */
const FORESEEN = 8;
/** What two questions one after the other are apart where ports are given out in a row, at most. */
const MOST_STEP = 8;
/** More would be of little use: with 256 open ports, 2048 probes miss them all once in three thousand times. */
export const MOST_PROBES = 2048;
/** First the neighbours of ports that were seen: a router that shares one address among many lines gives each a block. */
const NEAR = 256;
const LOWEST_PORT = 1024;
const HIGHEST_PORT = 65_535;

/**
 * How the router gives out ports, by what two or more ports of one server saw in IPv4; null when there were not two. A router that
 * gives each address its own port, but all ports of an address the same, looks "independent".
 */
export function mappingOf(answers: readonly Reflexive[], localPort: number): NatMapping | null {
  const seen = ofOneServer(answers);
  const [first] = seen;
  if (first === undefined || seen.length < 2) return null;
  if (new Set(seen.map(formatEndpoint)).size === 1) return first.port === localPort ? "preserved" : "independent";
  return stepOf(seen) === null ? "random" : "sequential";
}

/** The ports that the router gives out next, when these were seen one after the other; null when they are not in a row. */
export function foreseenOf(answers: readonly Reflexive[]): readonly Endpoint[] | null {
  const seen = ofOneServer(answers);
  const [step, last] = [stepOf(seen), seen.at(-1)];
  if (step === null || last === undefined) return null;
  return Array.from({ length: FORESEEN }, (_, i) => ({
    address: last.address,
    port: last.port + (i + 1) * step,
  })).filter(({ port }) => port > 0 && port <= HIGHEST_PORT);
}

function ofOneServer(answers: readonly Reflexive[]): readonly Endpoint[] {
  const byServer = new Map<IpAddress, Endpoint[]>();
  for (const { server, mapped } of answers) {
    if (mapped === null || mapped.address.includes(":")) continue;
    byServer.set(server.address, [...(byServer.get(server.address) ?? []), mapped]);
  }
  return [...byServer.values()].find((seen) => seen.length > 1) ?? [];
}

/** Null unless all have one address and are the same small number apart. */
function stepOf(seen: readonly Endpoint[]): number | null {
  const steps = seen.slice(1).map(({ port }, i) => port - (seen[i]?.port ?? 0));
  const [step] = steps;
  if (step === undefined || step === 0 || Math.abs(step) > MOST_STEP) return null;
  if (new Set(seen.map(({ address }) => address)).size > 1 || steps.some((other) => other !== step)) return null;
  return step;
}

export interface Situation {
  readonly own: NatMapping | null;
  /** Null for a peer that has not told: its version knows nothing of all this. */
  readonly peer: Nat | null;
  /** A person allows it here, and it is not long enough ago that it failed. */
  readonly mayGuess: boolean;
}

/** One end may have begun too late, as the machine was busy: each try has another port that no router has a wrong idea of. */
const MOST_FRESH = 4;
/** Where the router may be of the kind that has to be guessed. */
const FRESH_BEFORE_GUESSED = 2;

/** What this end does next, after these; null for nothing, or when it is for the peer to act. */
export function nextStage({ own, peer, mayGuess }: Situation, done: readonly Stage[]): Stage | null {
  if (own === null || peer === null || !isSteady(peer.mapping)) return null;
  const isKept = own === "preserved" && peer.mapping === "preserved";
  const fresh = done.filter((stage) => stage === "fresh").length;
  if (isSteady(own) && fresh < (isKept ? MOST_FRESH : FRESH_BEFORE_GUESSED)) return "fresh";
  if (own === "sequential" && !done.includes("predicted")) return "predicted";
  // A router that keeps port numbers gives nobody another.
  return own === "preserved" || done.includes("guessed") || !mayGuess || !peer.guesses ? null : "guessed";
}

/** Whether the peer's open ports are looked for: never from behind a router that itself gives each destination another port. */
export function maySeek({ own, peer, mayGuess }: Situation): boolean {
  if (own === null || peer === null || !mayGuess || peer.open === 0) return false;
  return isSteady(own) && peer.mapping !== "preserved";
}

export function isSteady(mapping: NatMapping): boolean {
  return mapping === "preserved" || mapping === "independent";
}

/** The ports to try, each once; `random` gives numbers from 0 to below 1. */
export function* guessedPorts(near: readonly number[], random: () => number): Generator<number> {
  const used = new Set<number>();
  for (let i = 0; i < NEAR && near.length > 0; i++) {
    const from = (near[i % near.length] ?? 0) - NEAR + Math.floor(random() * 2 * NEAR);
    if (from < LOWEST_PORT || from > HIGHEST_PORT || used.has(from)) continue;
    used.add(from);
    yield from;
  }
  while (used.size < MOST_PROBES) {
    const port = LOWEST_PORT + Math.floor(random() * (HIGHEST_PORT - LOWEST_PORT + 1));
    if (used.has(port)) continue;
    used.add(port);
    yield port;
  }
}

/** How many ports of ours are opened to be guessed. */
export const OPEN_PORTS = MOST_OPEN_PORTS;
