// The lab's DNS server: UDP and TCP on 53, DNS over TLS on 853 and over HTTPS on 443, and on 80 a count of who asked what and how.
import { fromBase64Url } from "../base/bytes.ts";
import type { Service } from "../base/service.ts";
import { answerDns } from "./dns-answer.ts";
import type { ZoneRecord } from "./topology.ts";
import { plainAddress } from "./web-server.ts";

export interface DnsServerOptions {
  /** The server listens on each of them, so that answers leave from the address that was asked. */
  readonly addresses: readonly string[];
  readonly zone: readonly ZoneRecord[];
  readonly certificatePem: string;
  readonly keyPem: string;
}

export type DnsTransport = "udp" | "tcp" | "dot" | "doh";

/** What GET /stats gives; DELETE /stats starts afresh. */
export interface DnsStats {
  readonly udp: number;
  readonly tcp: number;
  readonly dot: number;
  readonly doh: number;
  readonly malformed: number;
  /** The last 1 000, oldest first. */
  readonly queries: readonly DnsStatsQuery[];
}

export interface DnsStatsQuery {
  readonly transport: DnsTransport;
  readonly asker: string;
  readonly name: string;
  readonly type: string;
}

const DNS_PORT = 53;
const DOT_PORT = 853; // RFC 7858 section 3.1
const DOH_PORT = 443;
const STATS_PORT = 80;
const DOH_PATH = "/dns-query";
const DOH_TYPE = "application/dns-message"; // RFC 8484 section 6
const QUERIES_LIMIT = 1000;

export async function runDns(options: DnsServerOptions): Promise<Service> {
  const counter = statsCounter();
  const answer = (bytes: Uint8Array, from: { transport: DnsTransport; asker: string }): Uint8Array | null => {
    const asker = plainAddress(from.asker);
    const reply = answerDns(bytes, { zone: options.zone, asker, isDatagram: from.transport === "udp" });
    if (reply === null) counter.malformed();
    else counter.count({ transport: from.transport, asker, ...reply.query });
    return reply?.bytes ?? null;
  };
  const stack = new AsyncDisposableStack();
  try {
    for (const hostname of options.addresses) {
      const udp = await listenUdp(hostname, answer);
      stack.defer(() => udp.close());
      const tcp = listenTcp({ hostname, port: DNS_PORT }, "tcp", answer);
      stack.defer(() => tcp.stop(true));
      const tls = { cert: options.certificatePem, key: options.keyPem };
      const dot = listenTcp({ hostname, port: DOT_PORT, tls }, "dot", answer);
      stack.defer(() => dot.stop(true));
      const doh = serveDoh(options, { hostname, answer });
      stack.defer(() => doh.stop(true));
      const stats = Bun.serve({ hostname, port: STATS_PORT, fetch: (request) => counter.respond(request) });
      stack.defer(() => stats.stop(true));
    }
    return stack.move();
  } catch (thrown) {
    await stack.disposeAsync();
    throw thrown;
  }
}

type AnswerDns = (bytes: Uint8Array, from: { transport: DnsTransport; asker: string }) => Uint8Array | null;

function listenUdp(hostname: string, answer: AnswerDns) {
  return Bun.udpSocket({
    hostname,
    port: DNS_PORT,
    socket: {
      // oxlint-disable-next-line max-params -- Bun's own signature
      data(socket, bytes, port, address) {
        const reply = answer(bytes, { transport: "udp", asker: address });
        if (reply !== null) socket.send(reply, port, address); // a full buffer loses it, as networks do
      },
    },
  });
}

/** Each message has its length in two bytes before it (RFC 1035 4.2.2); several may come on one connection. */
function listenTcp(
  where: { readonly hostname: string; readonly port: number; readonly tls?: { cert: string; key: string } },
  transport: "tcp" | "dot",
  answer: AnswerDns,
) {
  return Bun.listen<{ rest: Buffer }>({
    ...where,
    socket: {
      open(socket) {
        socket.data = { rest: Buffer.alloc(0) };
      },
      data(socket, chunk) {
        let rest = Buffer.concat([socket.data.rest, chunk]);
        while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
          const end = 2 + rest.readUInt16BE(0);
          const reply = answer(rest.subarray(2, end), { transport, asker: socket.remoteAddress });
          rest = rest.subarray(end);
          if (reply === null) {
            socket.end();
            return;
          }
          const length = Buffer.alloc(2);
          length.writeUInt16BE(reply.length);
          socket.write(Buffer.concat([length, reply])); // small against any socket buffer
        }
        socket.data.rest = Buffer.from(rest);
      },
    },
  });
}

function serveDoh(options: DnsServerOptions, way: { readonly hostname: string; readonly answer: AnswerDns }) {
  return Bun.serve({
    hostname: way.hostname,
    port: DOH_PORT,
    tls: { cert: options.certificatePem, key: options.keyPem },
    async fetch(request, server) {
      const url = new URL(request.url);
      if (url.pathname !== DOH_PATH) return new Response("Not found\n", { status: 404 });
      const query = await dohQuery(request, url);
      if (query === null) return new Response("No query\n", { status: 400 });
      const reply = way.answer(query, { transport: "doh", asker: server.requestIP(request)?.address ?? "" });
      if (reply === null) return new Response("Not DNS\n", { status: 400 });
      return new Response(Buffer.from(reply), { headers: { "content-type": DOH_TYPE, "cache-control": "max-age=0" } });
    },
  });
}

/** RFC 8484 4.1: GET has the query in the parameter "dns", POST in the body. */
async function dohQuery(request: Request, url: URL): Promise<Uint8Array | null> {
  if (request.method === "GET") return fromBase64Url(url.searchParams.get("dns") ?? "");
  if (request.method !== "POST" || request.headers.get("content-type") !== DOH_TYPE) return null;
  return new Uint8Array(await request.arrayBuffer());
}

function statsCounter() {
  const zero = (): Record<DnsTransport | "malformed", number> => ({ udp: 0, tcp: 0, dot: 0, doh: 0, malformed: 0 });
  let counts = zero();
  let queries: DnsStatsQuery[] = [];
  return {
    count(query: DnsStatsQuery): void {
      counts[query.transport] += 1;
      queries.push(query);
      if (queries.length > QUERIES_LIMIT) queries.shift();
    },
    malformed(): void {
      counts.malformed += 1;
    },
    respond(request: Request): Response {
      if (new URL(request.url).pathname !== "/stats") return new Response("Not found\n", { status: 404 });
      if (request.method === "DELETE") {
        counts = zero();
        queries = [];
      }
      const stats: DnsStats = { ...counts, queries };
      return Response.json(stats);
    },
  };
}
