// Where the node's resolver may ask, as a person writes it: DNS over HTTPS, over TLS, or plain DNS where that was asked for.
import { HiggsError } from "../base/errors.ts";
import {
  type Endpoint,
  formatEndpoint,
  formatHostPort,
  type HostPort,
  parseEndpoint,
  parseHostPort,
  parseIp,
} from "../base/ip.ts";

export type UpstreamSpec =
  | { readonly kind: "https"; readonly url: string }
  /** `name`: whose certificate it must be; that of the host unless a person says otherwise. */
  | { readonly kind: "tls"; readonly server: HostPort; readonly name: string }
  | { readonly kind: "udp"; readonly endpoint: Endpoint };

export class UpstreamError extends HiggsError {
  override readonly name = "UpstreamError";
}

/** RFC 7858 section 3.1. */
const TLS_PORT = 853;

/** Reached by address, so that the resolver needs no resolver: two operators that are not each other's. */
export const DEFAULT_UPSTREAMS: readonly string[] = ["https://9.9.9.9/dns-query", "https://1.1.1.1/dns-query"];

/** Throws UpstreamError `bad-dns` for what is no upstream that higgs can ask. */
export function parseUpstream(text: string): UpstreamSpec {
  const refuse = (why: string): UpstreamError =>
    new UpstreamError(`Cannot use "${text}" as a DNS upstream: ${why}.`, {
      code: "bad-dns",
      remedy: "Give https://HOST/dns-query, tls://HOST, or udp://ADDRESS for plain DNS.",
    });
  if (text.startsWith("udp://")) {
    const rest = text.slice("udp://".length);
    const address = parseIp(rest.replace(/^\[(.*)\]$/, "$1"));
    const endpoint = address === null ? parseEndpoint(rest) : { address, port: 53 };
    if (endpoint === null) throw refuse("plain DNS wants an address, with or without a port");
    return { kind: "udp", endpoint };
  }
  if (text.startsWith("tls://")) {
    const [where = "", name] = text.slice("tls://".length).split("#");
    const server = parseHostPort(where, TLS_PORT);
    if (server === null) throw refuse("DNS over TLS wants HOST, HOST:PORT or ADDRESS#NAME");
    const certified = name === undefined ? server.host : parseHostPort(name, TLS_PORT)?.host;
    if (certified === undefined || (name !== undefined && certified !== name.toLowerCase())) {
      throw refuse(`"${name}" is no name of a certificate`);
    }
    return { kind: "tls", server, name: certified };
  }
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol !== "https:") throw refuse("it is neither an https:// URL nor tls://HOST nor udp://ADDRESS");
  return { kind: "https", url: url.href };
}

export function upstreamName(spec: UpstreamSpec): string {
  switch (spec.kind) {
    case "https":
      return spec.url;
    case "tls": {
      const where = formatHostPort(spec.server);
      return spec.name === spec.server.host ? `tls://${where}` : `tls://${where}#${spec.name}`;
    }
    case "udp":
      return `udp://${formatEndpoint(spec.endpoint)}`;
  }
}

export interface Upstream {
  readonly name: string;
  /** A query and its answer in wire format (RFC 1035 section 4.1). Throws UpstreamError, or the signal's reason. */
  ask(query: Uint8Array, signal: AbortSignal): Promise<Uint8Array>;
}

/** One way of asking; the deadline is in the signal. */
export type AskUpstream = (query: Uint8Array, signal: AbortSignal) => Promise<Uint8Array>;
