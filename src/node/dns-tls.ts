// Asks an upstream over TLS (RFC 7858): one connection for all questions of the moment, closed when there are none, made anew when it is lost.
import { connect as connectTls, type TLSSocket } from "node:tls";
import { concatBytes } from "../base/bytes.ts";
import { errorText } from "../base/errors.ts";
import { parseIp } from "../base/ip.ts";
import { type AskUpstream, UpstreamError, type UpstreamSpec } from "./dns-upstream.ts";

/** RFC 7858 section 3.4: an idle connection costs the server; a new one costs us a handshake. */
const IDLE_MS = 10_000;
/** An answer is no longer than its length can say; what waits in front of it may be as long once more. */
const MOST_WAITING_BYTES = 2 * 65_537;
const HEADER_BYTES = 12;

interface Line {
  readonly socket: TLSSocket;
  readonly pending: Map<number, PromiseWithResolvers<Uint8Array>>;
  waiting: Uint8Array;
  isOver: boolean;
}

export function askTls(spec: Extract<UpstreamSpec, { kind: "tls" }>, caPem: string | null): AskUpstream {
  let current: Line | null = null;

  return async (query, signal) => {
    const isReused = current !== null && !current.isOver;
    const line = current !== null && isReused ? current : openLine(spec, caPem);
    current = line;
    try {
      return await exchange(line, query, signal);
    } catch (thrown) {
      // The server may have closed the connection just when it was used again: RFC 7766 section 6.2.4 wants one more try.
      if (signal.aborted || !isReused || !line.isOver) throw thrown;
      if (current === line || current === null || current.isOver) current = openLine(spec, caPem);
      return await exchange(current, query, signal);
    }
  };
}

async function exchange(line: Line, query: Uint8Array, signal: AbortSignal): Promise<Uint8Array> {
  const id = freeId(line.pending);
  const answered = Promise.withResolvers<Uint8Array>();
  line.pending.set(id, answered);
  const onAbort = (): void => answered.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  line.socket.setTimeout(0);
  try {
    const framed = concatBytes(Uint8Array.of(query.length >> 8, query.length & 0xff), query);
    framed[2] = id >> 8;
    framed[3] = id & 0xff;
    line.socket.write(framed);
    const answer = await answered.promise;
    answer.set(query.subarray(0, 2));
    return answer;
  } finally {
    signal.removeEventListener("abort", onAbort);
    line.pending.delete(id);
    if (line.pending.size === 0) line.socket.setTimeout(IDLE_MS);
  }
}

function freeId(pending: ReadonlyMap<number, unknown>): number {
  for (;;) {
    const id = crypto.getRandomValues(new Uint16Array(1))[0] ?? 0;
    if (!pending.has(id)) return id; // the resolver has 512 in work at most
  }
}

/** Verified by the given root or the system's, before a question is sent: what is written earlier waits for the handshake. */
function openLine(spec: Extract<UpstreamSpec, { kind: "tls" }>, caPem: string | null): Line {
  const { host, port } = spec.server;
  const socket = connectTls({
    host,
    port,
    rejectUnauthorized: true,
    ALPNProtocols: ["dot"],
    ...(parseIp(spec.name) === null ? { servername: spec.name } : {}),
    ...(caPem === null ? {} : { ca: caPem }),
  });
  const line: Line = { socket, pending: new Map(), waiting: new Uint8Array(0), isOver: false };
  const end = (why: string): void => {
    if (line.isOver) return;
    line.isOver = true;
    for (const asked of line.pending.values()) asked.reject(new UpstreamError(why, { code: "dns-upstream" }));
    line.pending.clear();
    socket.destroy();
  };
  socket.setNoDelay(true);
  socket.on("data", (chunk: Uint8Array) => {
    if (!takeAnswers(line, chunk)) end("the answer is no DNS");
  });
  socket.on("timeout", () => end("the connection was idle"));
  socket.on("error", (error) => end(errorText(error)));
  socket.on("close", () => end("the connection was closed"));
  return line;
}

/** False for what cannot be an answer. An answer to no question of ours is passed over. */
function takeAnswers(line: Line, chunk: Uint8Array): boolean {
  line.waiting = concatBytes(line.waiting, chunk);
  while (line.waiting.length >= 2) {
    const length = ((line.waiting[0] ?? 0) << 8) | (line.waiting[1] ?? 0);
    if (length < HEADER_BYTES) return false;
    if (line.waiting.length < 2 + length) break;
    const answer = line.waiting.slice(2, 2 + length);
    line.waiting = line.waiting.slice(2 + length);
    line.pending.get(((answer[0] ?? 0) << 8) | (answer[1] ?? 0))?.resolve(answer);
  }
  return line.waiting.length <= MOST_WAITING_BYTES;
}
