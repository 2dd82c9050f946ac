// The search of one session by other ports than WireGuard's: opens them, tells the peer, and closes all but the one that is used.
import { errorText } from "../base/errors.ts";
import { type Endpoint, familyOf, formatEndpoint } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { SidePort } from "../net/discovery/discovery.ts";
import type { MachineId } from "../proto/keys.ts";
import { type Candidate, MOST_CANDIDATES, type Nat } from "../proto/path.ts";
import { looksLikeWireGuard } from "../proto/wireguard-packet.ts";
import { seenEndpoints } from "./candidates.ts";
import type { PathAgent } from "./path-agent.ts";
import { readIncoming } from "./path-check.ts";
import type { PathTarget, Place } from "./path-info.ts";
import type { PortSeeker } from "./port-seeker.ts";
import {
  foreseenOf,
  guessedPorts,
  isSteady,
  maySeek,
  type NatMapping,
  nextStage,
  OPEN_PORTS,
  type SideView,
  type Stage,
} from "./side-plan.ts";
import { StunClient, type StunCredential } from "./stun-client.ts";

export interface SideSearchDeps {
  readonly peer: MachineId;
  readonly peerName: string;
  readonly agent: () => PathAgent;
  readonly openSide: (onDatagram: (bytes: Uint8Array, from: Endpoint) => void) => Promise<SidePort>;
  readonly stun: () => { readonly credential: StunCredential; readonly servers: readonly Endpoint[] } | null;
  readonly mapping: () => NatMapping | null;
  /** A person allows guessing. */
  readonly guesses: boolean;
  readonly seeker: PortSeeker;
  /** A check from WireGuard's own port. */
  readonly send: (bytes: Uint8Array, to: Endpoint) => void;
  /** Null for what is not worth a packet. */
  readonly target: (place: Place) => PathTarget | null;
  /** Tells the peer anew; gives the round. */
  readonly offer: () => number;
  /** WireGuard's packets that came by a side port which the kernel does not hand on, or not yet. */
  readonly inject: (packets: readonly Uint8Array[]) => void;
  readonly onClosed: (port: number) => void;
  readonly log: Logger;
}

interface Held {
  readonly port: SidePort;
  readonly stun: StunClient;
}

interface Trial {
  readonly stage: Stage;
  readonly ports: readonly number[];
  readonly candidates: readonly Candidate[];
  /** By which the peer was told. */
  round: number;
  endAt: number;
}

/** After the start of a punch: the third round of checks had its time. */
const PATIENCE_MS = 1_000;
/** Fresh ports meet in the first rounds or not at all. */
const FRESH_PATIENCE_MS = 700;
/** The end that waits for the other to begin has had its turn. */
const TRIAL_MS = 8_000;
/** All probes at half the pace, and what is under way. */
const GUESS_MS = 10_000;
/** The peer's ports have spoken before they are looked for. */
const LEAD_MS = 150;
/** A router should not take 256 flows in one moment for an attack. */
const OPENING_MS = 20;
const OPENING_PORTS = 32;
const GUESS_APART_MS = 300_000;
const ASK_MS = 2_000;

export class SideSearch {
  readonly #deps: SideSearchDeps;
  readonly #ports = new Map<number, Held>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #over = new AbortController();
  #done: readonly Stage[] = [];
  #trial: Trial | null = null;
  #targets: readonly PathTarget[] = [];
  #punchedAt = Number.NEGATIVE_INFINITY;
  #decideAt: number | null = null;
  #isBusy = false;
  #peer: { readonly round: number; readonly candidates: readonly Candidate[]; readonly nat: Nat | null } | null = null;
  #guessedAt = Number.NEGATIVE_INFINITY;
  #soughtRound = 0;
  #probes = 0;
  #tried: readonly Stage[] = [];
  #found: Stage | null = null;
  #hadDirect = false;
  #isSeeking = false;

  constructor(deps: SideSearchDeps) {
    this.#deps = deps;
  }

  get view(): SideView {
    const nat = this.#peer?.nat ?? null;
    const off = !this.#deps.guesses ? "here" : nat?.guesses === false ? "peer" : null;
    const [own, peer] = [this.#deps.mapping(), nat?.mapping ?? null];
    return { own, peer, tried: this.#tried, found: this.#found, probes: this.#probes, off };
  }

  port(port: number): SidePort | null {
    return this.#ports.get(port)?.port ?? null;
  }

  /** Paths by side ports that are worth a check. */
  get targets(): readonly PathTarget[] {
    return this.#targets;
  }

  /** What is told beside the machine's own candidates, of which the last give way. */
  told(own: readonly Candidate[]): { readonly candidates: Candidate[]; readonly nat?: Nat } {
    const mapping = this.#deps.mapping();
    if (mapping === null) return { candidates: [...own] };
    const more = this.#trial?.candidates ?? [];
    const open = this.#trial?.stage === "guessed" ? this.#trial.ports.length : 0;
    const candidates = [...own.slice(0, MOST_CANDIDATES - more.length), ...more];
    return { candidates, nat: { mapping, guesses: this.#deps.guesses, open } };
  }

  /** A new search with everything, from the start. */
  again(): void {
    if (this.#trial === null) this.#done = [];
  }

  networkChanged(): void {
    this.#guessedAt = Number.NEGATIVE_INFINITY;
    this.#done = [];
    this.#end();
  }

  remote(told: {
    readonly round: number;
    readonly candidates: readonly Candidate[];
    readonly nat?: Nat | undefined;
  }): void {
    this.#peer = { round: told.round, candidates: told.candidates, nat: told.nat ?? null };
    const own = this.#deps.mapping();
    // The other end has begun: it needs a fresh port of this end, too.
    const isAsked = told.candidates.some(({ kind }) => kind === "fresh");
    if (isAsked && own !== null && isSteady(own) && this.#trial === null && !this.#hasDirect) {
      this.#start("fresh");
    }
  }

  /** Both ends begin in so long, with what the peer was told up to that round. */
  punch(round: number, inMs: number): void {
    const at = performance.now();
    this.#punchedAt = at;
    const trial = this.#trial;
    const isFresh = trial?.stage === "fresh" && round >= trial.round;
    const patienceMs = isFresh ? FRESH_PATIENCE_MS : PATIENCE_MS;
    this.#decideAt = at + inMs + patienceMs + 2 * (this.#deps.agent().relayRttMs ?? 0);
    if (trial !== null && round >= trial.round) this.#begin(trial, inMs);
    this.#seek(inMs);
  }

  tick(): void {
    const at = performance.now();
    const hasDirect = this.#hasDirect;
    if (hasDirect !== this.#hadDirect) this.#found = hasDirect ? this.#stageNow() : null;
    this.#hadDirect = hasDirect;
    if (hasDirect) {
      this.#decideAt = null;
      if (this.#trial?.stage === "guessed") this.#guessedAt = Number.NEGATIVE_INFINITY; // not in vain
      this.#done = [];
      this.#end();
      return;
    }
    if (this.#trial !== null && at >= this.#trial.endAt) this.#end();
    if (this.#decideAt === null || at < this.#decideAt || this.#isBusy) return;
    this.#decideAt = null;
    const mayGuess = this.#deps.guesses && at - this.#guessedAt > GUESS_APART_MS;
    const situation = { own: this.#deps.mapping(), peer: this.#peer?.nat ?? null, mayGuess };
    const stage = nextStage(situation, this.#done);
    if (stage !== null) this.#start(stage);
  }

  /** What answered before the last punch says nothing of now: the path may have died for the other end. */
  get #hasDirect(): boolean {
    return this.#deps.agent().hasDirect(this.#punchedAt);
  }

  /** What is under way here, or was begun by the peer. */
  #stageNow(): Stage | null {
    if (this.#trial !== null) return this.#trial.stage;
    if (this.#isSeeking) return "guessed";
    return this.#peer?.candidates.some(({ kind }) => kind === "predicted") === true ? "predicted" : null;
  }

  close(): void {
    this.#over.abort();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#trial = null;
    for (const held of this.#ports.values()) void held.port[Symbol.asyncDispose]();
    this.#ports.clear();
  }

  #start(stage: Stage): void {
    if (this.#isBusy) return;
    if (this.#done.length === 0) [this.#tried, this.#probes] = [[], 0];
    this.#done = [...this.#done, stage];
    this.#tried = [...this.#tried.filter((one) => one !== stage), stage];
    this.#end();
    this.#isBusy = true;
    this.#open(stage)
      .then((trial) => {
        this.#isBusy = false;
        if (this.#over.signal.aborted) return;
        if (trial === null) {
          this.#decideAt = performance.now(); // for what comes after it
          this.#tidy();
          return;
        }
        this.#trial = trial;
        this.#deps.log.debug({ peer: this.#deps.peerName, stage, ports: trial.ports.length }, "trying other ports");
        trial.round = this.#deps.offer();
      })
      .catch((thrown: unknown) => {
        this.#isBusy = false;
        if (this.#over.signal.aborted) return;
        this.#deps.log.debug({ peer: this.#deps.peerName, stage, reason: errorText(thrown) }, "other ports not tried");
        this.#tidy();
      });
  }

  /** Null when it is of no use. Throws DiscoveryFailed, or that there is no server to ask. */
  async #open(stage: Stage): Promise<Trial | null> {
    if (stage === "guessed") return await this.#openMany();
    const held = await this.#openOne();
    const answers = await this.#ask(held, stage === "fresh" ? 1 : 2);
    const found = stage === "fresh" ? answers.flatMap(({ mapped }) => mapped ?? []) : foreseenOf(answers);
    if (found === null || found.length === 0) return null;
    const kind = stage === "fresh" ? ("fresh" as const) : ("predicted" as const);
    const candidates = found.map((endpoint) => ({ kind, endpoint: formatEndpoint(endpoint) }));
    return this.#trialOf(stage, [held.port.port], candidates);
  }

  async #openMany(): Promise<Trial | null> {
    this.#guessedAt = performance.now();
    const ports: number[] = [];
    try {
      while (ports.length < OPEN_PORTS && !this.#over.signal.aborted) ports.push((await this.#openOne()).port.port);
    } catch (thrown) {
      if (ports.length === 0) throw thrown;
      this.#deps.log.debug({ ports: ports.length, reason: errorText(thrown) }, "fewer ports opened"); // fewer are worth a try
    }
    return this.#trialOf("guessed", ports, []);
  }

  #trialOf(stage: Stage, ports: readonly number[], candidates: readonly Candidate[]): Trial {
    const mostMs = stage === "guessed" ? GUESS_MS : TRIAL_MS;
    return { stage, ports, candidates, round: Number.POSITIVE_INFINITY, endAt: performance.now() + mostMs };
  }

  async #openOne(): Promise<Held> {
    const port = await this.#deps.openSide((bytes, from) => this.#take(held, bytes, from));
    const held: Held = { port, stun: new StunClient({ send: (bytes, to) => void port.send(bytes, to) }) };
    if (this.#over.signal.aborted) await port[Symbol.asyncDispose]();
    this.#over.signal.throwIfAborted();
    this.#ports.set(port.port, held);
    return held;
  }

  /** So many ports of one server, in their order: a router that gives out ports in a row shows its row. */
  async #ask(held: Held, count: number) {
    const stun = this.#deps.stun();
    const servers = (stun?.servers ?? []).filter(({ address }) => familyOf(address) === 4);
    const asked = servers.filter(({ address }) => address === servers[0]?.address).slice(0, count);
    if (stun === null || asked.length === 0) return [];
    return await held.stun.ask(
      asked,
      stun.credential,
      AbortSignal.any([this.#over.signal, AbortSignal.timeout(ASK_MS)]),
    );
  }

  /** With the start of a punch of which the peer knows what it has to. */
  #begin(trial: Trial, inMs: number): void {
    const candidates = this.#peer?.candidates ?? [];
    const [via] = trial.ports;
    if (trial.stage === "guessed") {
      this.#speak(trial, inMs);
    } else if (via !== undefined) {
      const to = seenEndpoints(candidates, trial.stage === "fresh" ? ["fresh"] : ["reflexive"]);
      this.#targets = to.flatMap((endpoint) => this.#deps.target({ ...endpoint, via }) ?? []);
    }
  }

  /** One check from each open port, so that the router has a mapping for each; only to where the server has seen the peer. */
  #speak(trial: Trial, inMs: number): void {
    const [to] = seenEndpoints(this.#peer?.candidates ?? [], ["reflexive"]);
    if (to === undefined || this.#deps.target(to) === null) return;
    trial.endAt = performance.now() + inMs + GUESS_MS;
    for (let from = 0; from < trial.ports.length; from += OPENING_PORTS) {
      this.#later(inMs + (from / OPENING_PORTS) * OPENING_MS, () => {
        if (this.#trial !== trial) return;
        for (const port of trial.ports.slice(from, from + OPENING_PORTS)) {
          this.port(port)?.send(this.#deps.agent().probe(), to);
        }
      });
    }
  }

  /** Looks for the peer's open ports, once for each time that it has opened some. */
  #seek(inMs: number): void {
    const { seeker, peer, peerName, log } = this.#deps;
    const told = this.#peer;
    const situation = { own: this.#deps.mapping(), peer: told?.nat ?? null, mayGuess: this.#deps.guesses };
    if (told === null || told.round === this.#soughtRound || !maySeek(situation)) return;
    const seen = seenEndpoints(told.candidates, ["reflexive"]);
    const [first] = seen;
    if (first === undefined || this.#deps.target(first) === null || !seeker.maySeek(peer, first.address)) return;
    this.#soughtRound = told.round;
    const { address } = first;
    const near = seen.filter((one) => one.address === address).map(({ port }) => port);
    this.#later(inMs + LEAD_MS, () => {
      const ports = guessedPorts(near, Math.random);
      const agent = this.#deps.agent();
      const since = performance.now();
      const isOver = (): boolean => this.#over.signal.aborted || agent.hasDirect(since);
      const send = (port: number): void => this.#deps.send(agent.probe(), { address, port });
      this.#isSeeking = true;
      void seeker.seek({ peer, address, ports, send, isOver }).then((probes) => {
        this.tick(); // which sees by what it was found
        this.#isSeeking = false;
        this.#probes = probes;
        if (!this.#tried.includes("guessed")) this.#tried = [...this.#tried, "guessed"];
        log.info({ peer: peerName, probes, found: agent.hasDirect(since) }, "guessed the peer's ports");
      });
    });
  }

  /** STUN is for whoever asked; the rest is the session's. */
  #take(held: Held, bytes: Uint8Array, from: Endpoint): void {
    if (held.stun.take(bytes)) return;
    const place = { ...from, via: held.port.port };
    if (looksLikeWireGuard(bytes, 0, bytes.length)) {
      if (this.#deps.agent().isOpen(place)) this.#deps.inject([bytes]);
      return;
    }
    const message = readIncoming(bytes);
    if (message !== null) this.#deps.agent().take(bytes, message, place);
  }

  #end(): void {
    this.#trial = null;
    this.#targets = [];
    this.#tidy();
  }

  /** Only what is used, or may be of use again, stays open. */
  #tidy(): void {
    if (this.#ports.size === 0 || this.#isBusy) return;
    const kept = new Set([...this.#deps.agent().sides, ...(this.#trial?.ports ?? [])]);
    for (const [number, { port }] of this.#ports) {
      if (kept.has(number)) continue;
      this.#ports.delete(number);
      this.#deps.onClosed(number);
      void port[Symbol.asyncDispose]();
    }
  }

  #later(ms: number, task: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      task();
    }, ms);
    this.#timers.add(timer);
  }
}
