// Asks an upstream over HTTPS (RFC 8484).
import { type AskUpstream, UpstreamError } from "./dns-upstream.ts";

const MOST_ANSWER_BYTES = 65_535;

export function askHttps(url: string, caPem: string | null): AskUpstream {
  return async (query, signal) => {
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
