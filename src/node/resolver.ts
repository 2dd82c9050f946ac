// The node's DNS resolver: takes its clients' queries on the tunnel's addresses, over UDP and TCP.
import { decode, encode, type Packet, TRUNCATED_RESPONSE } from "dns-packet";
import type { Socket } from "bun";
import { concatBytes } from "../base/bytes.ts";
import { errorText } from "../base/errors.ts";
import { type IpAddress, parseIp } from "../base/ip.ts";
import type { Service } from "../base/service.ts";
import { Stopped } from "../base/async.ts";
import { type Answers, type AnswersDeps, dnsAnswers, ResolverError } from "./dns-answers.ts";

export interface Resolver extends Service, Pick<Answers, "counters" | "probe"> {}

const MOST_TCP = 64;
const TCP_IDLE_S = 10;
const MOST_QUERY_BYTES = 4096;
/** RFC 1035 section 4.2.1: what a client without EDNS takes over UDP. */
const PLAIN_UDP_BYTES = 512;
/** RFC 9715: what goes through without fragments. */
const MOST_UDP_BYTES = 1232;

/** `addresses`: the node's tunnel addresses; nothing is bound anywhere else. */
export async function openResolver(
  deps: AnswersDeps,
  options: { readonly addresses: readonly IpAddress[]; readonly port: number },
): Promise<Resolver> {
  const controller = new AbortController();
  const answers = dnsAnswers(deps, controller.signal);
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
            const asker = parseIp(from);
            if (asker === null) return;
            void answers.answer(query, asker).then((found) => {
              if (found !== null) socket.send(fitUdp(query, found), port, from);
            });
          },
          error: () => answers.drop(),
        },
      });
      stack.defer(() => udp.close());
      stack.use(listenTcp(where, answers));
    }
  } catch (cause) {
    await stack.disposeAsync();
    throw new ResolverError(`Cannot answer DNS on port ${options.port} of the tunnel: ${errorText(cause)}.`, {
      code: "resolver-bind",
      cause,
    });
  }

  return {
    counters: answers.counters,
    probe: (signal) => answers.probe(signal),
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await stack.disposeAsync();
    },
  };
}

function parsed(packet: Uint8Array): Packet | null {
  try {
    return decode(Buffer.from(packet));
  } catch {
    return null; // a question that cannot be read: the caller answers without it
  }
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
function listenTcp(where: { readonly hostname: string; readonly port: number }, answers: Answers): Disposable {
  let connections = 0;
  const reply = (socket: Socket<TcpState>, query: Uint8Array): void => {
    const asker = parseIp(socket.remoteAddress);
    if (asker === null) return;
    void answers.answer(query, asker).then((found) => {
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
      error: () => answers.drop(),
      data(socket, chunk) {
        socket.timeout(TCP_IDLE_S);
        let waiting = concatBytes(socket.data.waiting, chunk);
        while (waiting.length >= 2) {
          const length = ((waiting[0] ?? 0) << 8) | (waiting[1] ?? 0);
          if (length > MOST_QUERY_BYTES) {
            answers.drop();
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
