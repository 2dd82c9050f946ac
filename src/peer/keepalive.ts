// How often a path that nobody uses is spoken on, so that no router on the way forgets it: by the life of a mapping here, once it is measured.
import { sleep } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { familyOf } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Discovery } from "../net/discovery/discovery.ts";
import { measureMappingLife } from "./mapping-life.ts";
import { LONGEST_IDLE_MS } from "./path-info.ts";
import type { Reflexive, StunCredential } from "./stun-client.ts";

/** Home routers keep a mapping for 30 s and more; one lost packet must not matter. */
const UNKNOWN_MS = 20_000;
const UNKNOWN_SPREAD_MS = 3_000;
/** While it is being measured it may be as short as it likes. */
const MEASURING_MS = 2_500;
const LEAST_MS = 2_000;
/** Of the measured life: what is left covers a lost packet, for which a check asks again after a second, and slow clocks. */
const SHARE = 0.8;
/** Less by up to this, so that machines do not speak in step. */
const JITTER = 0.1;
const AGAIN_MS = 24 * 3_600_000;
/** The first seconds belong to the search for paths. */
const START_MS = 3_000;

/** `lifeMs`: null when it is not known. `random`: 0 to 1. */
export function idleMsFor(lifeMs: number | null, random: number): number {
  if (lifeMs === null) return UNKNOWN_MS + (2 * random - 1) * UNKNOWN_SPREAD_MS;
  return Math.min(LONGEST_IDLE_MS, Math.max(LEAST_MS, lifeMs * SHARE)) * (1 - random * JITTER);
}

export interface KeepaliveDeps {
  /** Null where no port can be shared: then no path has a mapping. */
  readonly discovery: Discovery | null;
  readonly log: Logger;
  readonly onChange: () => void;
}

export class Keepalive implements AsyncDisposable {
  readonly #deps: KeepaliveDeps;
  readonly #signal: AbortSignal;
  readonly #random = Math.random();
  #lifeMs: number | null = null;
  /** Ends with the network that it is about. */
  #measuring: { readonly controller: AbortController; readonly done: Promise<void> } | null = null;
  #measuredAt = Number.NEGATIVE_INFINITY;

  /** Measures no more once the signal aborts. */
  constructor(deps: KeepaliveDeps, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
  }

  /** Of a mapping in this network; null before it is known. */
  get lifeMs(): number | null {
    return this.#lifeMs;
  }

  /** The longest silence on a path that is to stay open. */
  get idleMs(): number {
    if (this.#lifeMs === null && this.#measuring !== null) return MEASURING_MS;
    return idleMsFor(this.#lifeMs, this.#random);
  }

  /** Whole seconds, for WireGuard, which goes on when this process does not. */
  get wireGuardS(): number {
    return Math.floor(idleMsFor(this.#lifeMs, this.#random) / 1_000);
  }

  /** STUN has answered: by one of these servers the life is measured, once in a network and once a day. */
  follow(answers: readonly Reflexive[], credential: StunCredential): void {
    const { discovery } = this.#deps;
    const server = answers.find(({ server: one, mapped }) => mapped !== null && familyOf(one.address) === 4)?.server;
    const isDue = performance.now() - this.#measuredAt > AGAIN_MS;
    if (discovery === null || server === undefined || this.#measuring !== null || !isDue) return;
    this.#measuredAt = performance.now();
    const controller = new AbortController();
    const signal = AbortSignal.any([this.#signal, controller.signal]);
    const done = this.#measure(discovery, { server, credential }, signal);
    this.#measuring = { controller, done };
  }

  /** What was measured was about another router. */
  networkChanged(): void {
    this.#measuring?.controller.abort(new Error("the network changed"));
    this.#measuring = null;
    this.#measuredAt = Number.NEGATIVE_INFINITY;
    this.#set(null);
  }

  async #measure(
    discovery: Discovery,
    question: Parameters<typeof measureMappingLife>[1],
    signal: AbortSignal,
  ): Promise<void> {
    try {
      await sleep(START_MS, signal);
      const deps = { openSide: discovery.openSide.bind(discovery) };
      const lifeMs = await measureMappingLife(deps, question, signal);
      this.#measuring = null;
      this.#set(lifeMs);
    } catch (thrown) {
      if (signal.aborted) return;
      this.#measuring = null;
      this.#deps.log.debug({ reason: errorText(thrown) }, "the life of a mapping is not known");
    }
  }

  #set(lifeMs: number | null): void {
    const before = this.#lifeMs;
    this.#lifeMs = lifeMs;
    if (before === lifeMs) return;
    this.#deps.log.debug({ lifeMs, idleMs: Math.round(this.idleMs) }, "the router keeps an idle mapping");
    this.#deps.onChange();
  }

  /** After its signal was aborted. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#measuring?.done;
  }
}
