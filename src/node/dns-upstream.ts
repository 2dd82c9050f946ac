// Where the node's resolver asks: DNS over HTTPS (RFC 8484), or plain DNS where a person asked for it.
import { isIP } from "node:net";
import { HiggsError, errorText } from "../base/errors.ts";
import { DeadlineExceeded, withDeadline } from "../base/async.ts";
import { type Endpoint, formatEndpoint, parseEndpoint, parseIp } from "../base/ip.ts";

export type UpstreamSpec =
  | { readonly kind: "https"; readonly url: string }
  | { readonly kind: "udp"; readonly endpoint: Endpoint };

export class UpstreamError extends HiggsError {
  override readonly name = "UpstreamError";
}

/** Reached by address, so that the resolver needs no resolver: two operators that are not each other's. */
export const DEFAULT_UPSTREAMS: readonly string[] = ["https://9.9.9.9/dns-query", "https://1.1.1.1/dns-query"];

/** Throws UpstreamError `bad-dns` for what is no upstream that higgs can ask. */
export function parseUpstream(text: string): UpstreamSpec {
  const refuse = (why: string): UpstreamError =>
    new UpstreamError(`Cannot use "${text}" as a DNS upstream: ${why}.`, {
      code: "bad-dns",
      remedy: "Give https://HOST/dns-query, or udp://ADDRESS for plain DNS.",
    });
  if (text.startsWith("udp://")) {
    const rest = text.slice("udp://".length);
    const address = parseIp(rest.replace(/^\[(.*)\]$/, "$1"));
    const endpoint = address === null ? parseEndpoint(rest) : { address, port: 53 };
    if (endpoint === null) throw refuse("plain DNS wants an address, with or without a port");
    return { kind: "udp", endpoint };
  }
  if (text.startsWith("tls://")) throw refuse("DNS over TLS is not supported yet");
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol !== "https:") throw refuse("it is neither an https:// URL nor udp://ADDRESS");
  return { kind: "https", url: url.href };
}

export function upstreamName(spec: UpstreamSpec): string {
  return spec.kind === "https" ? spec.url : `udp://${formatEndpoint(spec.endpoint)}`;
}

export interface Upstream {
  readonly name: string;
  /** A query and its answer in wire format (RFC 1035 section 4.1). Throws UpstreamError, or the signal's reason. */
  ask(query: Uint8Array, signal: AbortSignal): Promise<Uint8Array>;
}

/** One attempt; a second upstream is asked after it. */
const ASK_TIMEOUT_MS = 3_000;
const MOST_ANSWER_BYTES = 65_535;

/** `caPem`: a private root for DNS over HTTPS, beside none of the system's. */
export function openUpstream(spec: UpstreamSpec, options: { readonly caPem: string | null }): Upstream {
  const name = upstreamName(spec);
  const ask = spec.kind === "https" ? askHttps(spec.url, options.caPem) : askUdp(spec.endpoint);
  return {
    name,
    async ask(query, signal) {
      try {
        return await withDeadline(`ask ${name}`, (limited) => ask(query, limited), {
          timeoutMs: ASK_TIMEOUT_MS,
          signal,
        });
      } catch (thrown) {
        signal.throwIfAborted();
        if (thrown instanceof UpstreamError) throw thrown;
        // Its sentence already says who was asked.
        if (thrown instanceof DeadlineExceeded) {
          throw new UpstreamError(thrown.message, { code: "dns-upstream", cause: thrown });
        }
        throw new UpstreamError(`Cannot ask ${name}: ${errorText(thrown)}`, { code: "dns-upstream", cause: thrown });
      }
    },
  };
}

function askHttps(url: string, caPem: string | null) {
  return async (query: Uint8Array, signal: AbortSignal): Promise<Uint8Array> => {
    // RFC 8484 section 4.1: id 0, so that HTTP caches see equal questions as equal.
    const body = new Uint8Array(query); // a copy, also of a Buffer, whose slice() is none
    body[0] = 0;
    body[1] = 0;
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/dns-message", accept: "application/dns-message" },
      body,
      redirect: "error",
      signal,
      ...(caPem === null ? {} : { tls: { ca: caPem } }),
    });
    const type = response.headers.get("content-type") ?? "";
    const answer = new Uint8Array(await response.arrayBuffer());
    if (
      !response.ok ||
      !type.startsWith("application/dns-message") ||
      answer.length < 12 ||
      answer.length > MOST_ANSWER_BYTES
    ) {
      throw new UpstreamError(`Cannot use the answer of ${url}: status ${response.status}, type "${type}".`, {
        code: "dns-upstream",
      });
    }
    answer[0] = query[0] ?? 0;
    answer[1] = query[1] ?? 0;
    return answer;
  };
}

function askUdp(endpoint: Endpoint) {
  return async (query: Uint8Array, signal: AbortSignal): Promise<Uint8Array> => {
    const answered = Promise.withResolvers<Uint8Array>();
    const failed = (): void => answered.reject(new UpstreamError("the address refuses DNS", { code: "dns-upstream" }));
    const socket = await Bun.udpSocket({
      hostname: isIP(endpoint.address) === 6 ? "::" : "0.0.0.0",
      port: 0,
      connect: { hostname: endpoint.address, port: endpoint.port },
      binaryType: "uint8array",
      socket: {
        data(_socket, answer) {
          // The socket is connected, so only that address reaches it; the id must be the query's.
          if (answer.length >= 12 && answer[0] === query[0] && answer[1] === query[1]) answered.resolve(answer.slice());
        },
        error: failed,
      },
    });
    const onAbort = (): void => answered.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      socket.send(query);
      return await answered.promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
      socket.close();
    }
  };
}
