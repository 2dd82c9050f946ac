// What the node's resolver answers: nothing to strangers and floods, no blocked and no private names, else from its memory or from the upstreams.
import { errorText, HiggsError } from "../base/errors.ts";
import type { IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import { RateLimit } from "../base/rate-limit.ts";
import { DnsCache } from "./dns-cache.ts";
import { addressedTo, emptyAnswer, isAnswerTo, type Question, queryKey, RCODE, readMessage } from "./dns-message.ts";
import { isWithin, leadsInside } from "./dns-private.ts";
import type { Upstream } from "./dns-upstream.ts";

export class ResolverError extends HiggsError {
  override readonly name = "ResolverError";
}

export interface AnswersDeps {
  readonly upstreams: readonly Upstream[];
  readonly log: Logger;
  /** Names that do not exist here, in lower case; default none. */
  readonly isBlocked?: (name: string) => boolean;
  /** Domains whose names may have private addresses; default none. */
  readonly privateDomains?: ReadonlySet<string>;
  /** Whose queries are answered; default everybody's, as the firewall lets nobody else's through. */
  readonly isClient?: (address: IpAddress) => boolean;
  /** Unix time in milliseconds. */
  readonly now?: () => number;
}

export interface DnsCounters {
  readonly queries: number;
  readonly answered: number;
  readonly cached: number;
  readonly blocked: number;
  /** Answers that led into a private network. */
  readonly private: number;
  readonly failed: number;
  /** Queries above a client's rate. */
  readonly limited: number;
  /** No queries, strangers', or too many at once. */
  readonly dropped: number;
}

export interface Answers {
  readonly counters: DnsCounters;
  /** Null for what gets no answer. */
  answer(query: Uint8Array, from: IpAddress): Promise<Uint8Array | null>;
  /** For what came in and was no query at all. */
  drop(): void;
  /** Asks the upstreams for the root's name servers. Resolves with why nobody answers, or null. */
  probe(signal: AbortSignal): Promise<string | null>;
}

/** Queries in work at once; more are dropped, and the clients ask again. */
const MOST_IN_WORK = 512;
/** One client cannot have all of them. */
const MOST_IN_WORK_EACH = 128;
/** A page may ask for a hundred names at once; nobody reads fifty pages a second. */
const RATE = { burst: 400, perMs: 8_000 };
const MOST_QUERY_BYTES = 4096;
const ROOT_NS = Uint8Array.of(0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1);

export function dnsAnswers(deps: AnswersDeps, signal: AbortSignal): Answers {
  const now = deps.now ?? Date.now;
  const cache = new DnsCache();
  const rate = new RateLimit([RATE]);
  const asking = new Map<string, Promise<Uint8Array>>();
  const inWork = new Map<IpAddress, number>();
  const counters = { queries: 0, answered: 0, cached: 0, blocked: 0, private: 0, failed: 0, limited: 0, dropped: 0 };
  let allInWork = 0;
  let preferred = 0;

  /** The upstream that answered last is asked first. */
  async function ask(query: Uint8Array, askSignal: AbortSignal): Promise<Uint8Array> {
    let failure: Error = new ResolverError("Cannot resolve: no upstream is set.", { code: "dns-upstream" });
    for (let i = 0; i < deps.upstreams.length; i++) {
      const at = (preferred + i) % deps.upstreams.length;
      try {
        const answer = await deps.upstreams[at]?.ask(query, askSignal);
        preferred = at;
        if (answer !== undefined) return answer;
      } catch (thrown) {
        askSignal.throwIfAborted();
        if (thrown instanceof Error) failure = thrown;
      }
    }
    throw failure;
  }

  async function resolve(query: Uint8Array, question: Question, key: string): Promise<Uint8Array> {
    const answer = await ask(query, signal);
    const message = readMessage(answer);
    if (message === null || !isAnswerTo(message, question, { query, answer })) {
      throw new ResolverError("Cannot use an upstream's answer: it is none to the question.", { code: "dns-upstream" });
    }
    if (leadsInside(message, answer) && !isWithin(question.name, deps.privateDomains ?? NO_DOMAINS)) {
      counters.private++;
      return emptyAnswer(query, question, RCODE.noError);
    }
    cache.put(key, { answer, message }, now());
    return answer;
  }

  /** Clients that ask the same at the same time wait for one answer. */
  function resolveOnce(query: Uint8Array, question: Question, key: string): Promise<Uint8Array> {
    const running = asking.get(key);
    if (running !== undefined) return running;
    const work = resolve(query, question, key).finally(() => asking.delete(key));
    asking.set(key, work);
    return work;
  }

  function mayAsk(query: Uint8Array, from: IpAddress): Question | null {
    const message = isQuery(query) ? readMessage(query) : null;
    const busy = inWork.get(from) ?? 0;
    if (message === null || deps.isClient?.(from) === false || allInWork >= MOST_IN_WORK || busy >= MOST_IN_WORK_EACH) {
      counters.dropped++;
      return null;
    }
    if (rate.take(from, now()) > 0) {
      counters.limited++;
      return null;
    }
    return message.question;
  }

  async function found(query: Uint8Array, question: Question): Promise<Uint8Array> {
    if (deps.isBlocked?.(question.name) === true) {
      counters.blocked++;
      return emptyAnswer(query, question, RCODE.nameError);
    }
    const key = queryKey(query, question);
    const known = cache.get(key, now());
    if (known !== null) counters.cached++;
    return addressedTo(query, question, known ?? (await resolveOnce(query, question, key)));
  }

  return {
    counters,
    async answer(query, from) {
      const question = mayAsk(query, from);
      if (question === null) return null;
      counters.queries++;
      allInWork++;
      inWork.set(from, (inWork.get(from) ?? 0) + 1);
      try {
        const answer = await found(query, question);
        counters.answered++;
        return answer;
      } catch (thrown) {
        if (signal.aborted) return null;
        counters.failed++;
        deps.log.debug({ reason: errorText(thrown) }, "query not resolved");
        return emptyAnswer(query, question, RCODE.serverFailure);
      } finally {
        allInWork--;
        const left = (inWork.get(from) ?? 1) - 1;
        if (left > 0) inWork.set(from, left);
        else inWork.delete(from);
      }
    },
    drop() {
      counters.dropped++;
    },
    async probe(probeSignal) {
      try {
        await ask(ROOT_NS, probeSignal);
        return null;
      } catch (thrown) {
        probeSignal.throwIfAborted();
        return errorText(thrown);
      }
    },
  };
}

const NO_DOMAINS: ReadonlySet<string> = new Set();

/** A standard query with one question: RFC 1035 section 4.1.1. */
export function isQuery(packet: Uint8Array): boolean {
  if (packet.length < 17 || packet.length > MOST_QUERY_BYTES) return false;
  const isResponse = ((packet[2] ?? 0) & 0x80) !== 0;
  const opcode = ((packet[2] ?? 0) >> 3) & 0xf;
  const questions = ((packet[4] ?? 0) << 8) | (packet[5] ?? 0);
  return !isResponse && opcode === 0 && questions === 1;
}
