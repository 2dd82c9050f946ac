// The node's DNS resolver: answers its clients on the tunnel's addresses, over UDP and TCP, and asks the upstreams.
import { decode, encode, type Packet, TRUNCATED_RESPONSE } from "dns-packet";
import type { Socket } from "bun";
import { concatBytes } from "../base/bytes.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import type { IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import { Stopped } from "../base/async.ts";
import type { Upstream } from "./dns-upstream.ts";

export class ResolverError extends HiggsError {
  override readonly name = "ResolverError";
}

export interface Resolver extends Service {
  readonly counters: Readonly<Record<"queries" | "answered" | "failed" | "dropped", number>>;
  /** Asks for the root's name servers. Resolves with why nobody answers, or null. */
  probe(signal: AbortSignal): Promise<string | null>;
}

/** Queries in work at once; more are dropped, and the clients ask again. */
const MOST_IN_WORK = 512;
const MOST_TCP = 64;
const TCP_IDLE_S = 10;
const MOST_QUERY_BYTES = 4096;
/** RFC 1035 section 4.2.1: what a client without EDNS takes over UDP. */
const PLAIN_UDP_BYTES = 512;
/** RFC 9715: what goes through without fragments. */
const MOST_UDP_BYTES = 1232;

/** `addresses`: the node's tunnel addresses; nothing is bound anywhere else. */
export async function openResolver(
  deps: { readonly upstreams: readonly Upstream[]; readonly log: Logger },
  options: { readonly addresses: readonly IpAddress[]; readonly port: number },
): Promise<Resolver> {
  const controller = new AbortController();
  const counters = { queries: 0, answered: 0, failed: 0, dropped: 0 };
  let inWork = 0;
  let preferred = 0;

  /** Asks the upstream that answered last first. */
  async function ask(query: Uint8Array, signal: AbortSignal): Promise<Uint8Array> {
    let failure: Error = new ResolverError("Cannot resolve: no upstream is set.", { code: "dns-upstream" });
    for (let i = 0; i < deps.upstreams.length; i++) {
      const at = (preferred + i) % deps.upstreams.length;
      try {
        const answer = await deps.upstreams[at]?.ask(query, signal);
        preferred = at;
        if (answer !== undefined) return answer;
      } catch (thrown) {
        signal.throwIfAborted();
        if (thrown instanceof Error) failure = thrown;
      }
    }
    throw failure;
  }

  /** Null for what is no query, or when too many are in work. */
  async function answer(query: Uint8Array): Promise<Uint8Array | null> {
    if (!isQuery(query) || inWork >= MOST_IN_WORK) {
      counters.dropped++;
      return null;
    }
    inWork++;
    counters.queries++;
    try {
      const found = await ask(query, controller.signal);
      counters.answered++;
      return found;
    } catch (thrown) {
      if (controller.signal.aborted) return null;
      counters.failed++;
      deps.log.debug({ reason: errorText(thrown) }, "query not resolved");
      return serverFailure(query);
    } finally {
      inWork--;
    }
  }

  const stack = new AsyncDisposableStack();
  try {
    for (const address of options.addresses) {
      const where = { hostname: address as string, port: options.port };
      const udp = await Bun.udpSocket({
        ...where,
        binaryType: "uint8array",
        socket: {
          data(socket, packet, port, from) {
            const query = packet.slice();
            void answer(query).then((found) => {
              if (found !== null) socket.send(fitUdp(query, found), port, from);
            });
          },
          error: () => void counters.dropped++,
        },
      });
      stack.defer(() => udp.close());
      stack.use(listenTcp(where, answer, counters));
    }
  } catch (cause) {
    await stack.disposeAsync();
    throw new ResolverError(`Cannot answer DNS on port ${options.port} of the tunnel: ${errorText(cause)}.`, {
      code: "resolver-bind",
      cause,
    });
  }

  return {
    counters,
    async probe(signal) {
      const query = encode({ type: "query", id: 1, flags: 0x0100, questions: [{ type: "NS", name: "." }] });
      try {
        await ask(query, signal);
        return null;
      } catch (thrown) {
        signal.throwIfAborted();
        return errorText(thrown);
      }
    },
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await stack.disposeAsync();
    },
  };
}

/** A standard query with one question: RFC 1035 section 4.1.1. */
export function isQuery(packet: Uint8Array): boolean {
  if (packet.length < 17 || packet.length > MOST_QUERY_BYTES) return false;
  const isResponse = ((packet[2] ?? 0) & 0x80) !== 0;
  const opcode = ((packet[2] ?? 0) >> 3) & 0xf;
  const questions = ((packet[4] ?? 0) << 8) | (packet[5] ?? 0);
  return !isResponse && opcode === 0 && questions === 1;
}

function parsed(packet: Uint8Array): Packet | null {
  try {
    return decode(Buffer.from(packet));
  } catch {
    return null; // a question that cannot be read: the caller answers without it
  }
}

function serverFailure(query: Uint8Array): Uint8Array {
  const questions = parsed(query)?.questions ?? [];
  const id = ((query[0] ?? 0) << 8) | (query[1] ?? 0);
  const recursion = 0x0180; // RD and RA
  return encode({ type: "response", id, flags: recursion | 2, questions });
}

/** The answer as it is, or a truncated one that sends the client to TCP (RFC 1035 section 4.2.1, RFC 6891). */
export function fitUdp(query: Uint8Array, answer: Uint8Array): Uint8Array {
  if (answer.length <= PLAIN_UDP_BYTES) return answer;
  const question = parsed(query);
  const opt = question?.additionals?.find((record) => record.type === "OPT");
  const offered = opt?.type === "OPT" ? opt.udpPayloadSize : PLAIN_UDP_BYTES;
  if (answer.length <= Math.min(Math.max(offered, PLAIN_UDP_BYTES), MOST_UDP_BYTES)) return answer;
  const id = ((query[0] ?? 0) << 8) | (query[1] ?? 0);
  return encode({ type: "response", id, flags: TRUNCATED_RESPONSE | 0x0180, questions: question?.questions ?? [] });
}

interface TcpState {
  waiting: Uint8Array;
}

/** RFC 7766: each message has its length in two bytes before it. */
function listenTcp(
  where: { readonly hostname: string; readonly port: number },
  answer: (query: Uint8Array) => Promise<Uint8Array | null>,
  counters: { dropped: number },
): Disposable {
  let connections = 0;
  const reply = (socket: Socket<TcpState>, query: Uint8Array): void => {
    void answer(query).then((found) => {
      if (found === null) return;
      const framed = concatBytes(Uint8Array.of(found.length >> 8, found.length & 0xff), found);
      if (socket.write(framed) < framed.length) socket.end(); // a reader that does not read
    });
  };
  const listener = Bun.listen<TcpState>({
    ...where,
    socket: {
      open(socket) {
        socket.data = { waiting: new Uint8Array(0) };
        socket.timeout(TCP_IDLE_S);
        if (++connections > MOST_TCP) socket.end();
      },
      close() {
        connections--;
      },
      timeout: (socket) => void socket.end(),
      error: () => void counters.dropped++,
      data(socket, chunk) {
        socket.timeout(TCP_IDLE_S);
        let waiting = concatBytes(socket.data.waiting, chunk);
        while (waiting.length >= 2) {
          const length = ((waiting[0] ?? 0) << 8) | (waiting[1] ?? 0);
          if (length > MOST_QUERY_BYTES) {
            counters.dropped++;
            socket.end();
            return;
          }
          if (waiting.length < 2 + length) break;
          reply(socket, waiting.slice(2, 2 + length));
          waiting = waiting.slice(2 + length);
        }
        socket.data.waiting = waiting;
      },
    },
  });
  return { [Symbol.dispose]: () => listener.stop(true) };
}
