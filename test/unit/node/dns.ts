// DNS on loopback for tests: queries, answers, and upstreams over HTTPS and UDP that answer as the test says.
import { decode, encode, type Packet, type RecordType, RECURSION_DESIRED } from "dns-packet";
import { makeLabCertificates } from "../../../src/lab/ca.ts";

export function query(name: string, options: { id?: number; type?: RecordType; udpSize?: number } = {}): Uint8Array {
  const { id = 0x1234, type = "A", udpSize } = options;
  const opt = { type: "OPT", name: ".", udpPayloadSize: udpSize ?? 0, flags: 0, options: [] } as const;
  return encode({
    type: "query",
    id,
    flags: RECURSION_DESIRED,
    questions: [{ type, name }],
    ...(udpSize === undefined
      ? {}
      : { additionals: [{ ...opt, extendedRcode: 0, ednsVersion: 0, flag_do: false, options: [] }] }),
  });
}

/** An A record each; `count` of them make an answer of any size. */
export function answerTo(asked: Uint8Array, count = 1): Uint8Array {
  const packet = decode(Buffer.from(asked));
  const [question] = packet.questions ?? [];
  const name = question?.name ?? ".";
  return encode({
    type: "response",
    id: packet.id ?? 0,
    flags: 0x0180,
    questions: packet.questions ?? [],
    answers: Array.from({ length: count }, (_, i) => ({
      type: "A" as const,
      name,
      ttl: 60,
      data: `192.0.${2 + (i >> 8)}.${i & 255}`,
    })),
  });
}

export function read(bytes: Uint8Array): Packet & { readonly rcode?: string } {
  return decode(Buffer.from(bytes));
}

export interface HttpsUpstream extends AsyncDisposable {
  readonly url: string;
  readonly caPem: string;
  readonly requests: { readonly method: string; readonly type: string; readonly body: Uint8Array }[];
}

const certificates = makeLabCertificates("localhost", ["127.0.0.1"]);

export async function httpsUpstream(
  answer: (query: Uint8Array) => Response | Promise<Response>,
): Promise<HttpsUpstream> {
  const { caPem, certificatePem, keyPem } = await certificates;
  const requests: HttpsUpstream["requests"] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: { cert: certificatePem, key: keyPem },
    async fetch(request) {
      const body = new Uint8Array(await request.arrayBuffer());
      requests.push({ method: request.method, type: request.headers.get("content-type") ?? "", body });
      return await answer(body);
    },
  });
  return {
    url: `https://127.0.0.1:${server.port}/dns-query`,
    caPem,
    requests,
    [Symbol.asyncDispose]: () => server.stop(true),
  };
}

export function dnsMessage(bytes: Uint8Array): Response {
  return new Response(new Uint8Array(bytes), { headers: { "content-type": "application/dns-message" } });
}

export interface UdpUpstream extends Disposable {
  readonly port: number;
  readonly queries: Uint8Array[];
}

/** Each query may be answered with any number of datagrams. */
export async function udpUpstream(answers: (query: Uint8Array) => readonly Uint8Array[]): Promise<UdpUpstream> {
  const queries: Uint8Array[] = [];
  const socket = await Bun.udpSocket({
    hostname: "127.0.0.1",
    port: 0,
    binaryType: "uint8array",
    socket: {
      data(from, packet, port, address) {
        const copy = packet.slice();
        queries.push(copy);
        for (const answer of answers(copy)) from.send(answer, port, address);
      },
    },
  });
  return { port: socket.port, queries, [Symbol.dispose]: () => socket.close() };
}
