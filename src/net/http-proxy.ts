// An HTTP proxy as people name it: http://[USER:PASSWORD@]HOST:PORT, what may be shown of it, and which servers it is not for. Pure.
import {
  type Cidr,
  cidrContains,
  familyOf,
  formatHostPort,
  type HostPort,
  type IpAddress,
  parseCidr,
  parseHostPort,
  parseIp,
} from "../base/ip.ts";

export interface HttpProxy {
  readonly server: HostPort;
  readonly credentials: { readonly user: string; readonly password: string } | null;
}

/** As for any http:// URL without a port. */
const DEFAULT_PORT = 80;

/** Null for what is no such proxy; HOST:PORT alone is one. The text may hold a password: whoever reports it must not repeat it. */
export function parseProxy(text: string): HttpProxy | null {
  const bare = parseHostPort(text, 0);
  if (bare !== null) return bare.port === 0 ? null : { server: bare, credentials: null };
  if (!/^http:\/\//i.test(text) || !URL.canParse(text)) return null;
  const url = new URL(text);
  if (url.pathname !== "/" || url.search !== "" || url.hash !== "") return null;
  const server = parseHostPort(url.host, DEFAULT_PORT);
  if (server === null) return null;
  if (url.username === "" && url.password === "") return { server, credentials: null };
  try {
    const [user, password] = [decodeURIComponent(url.username), decodeURIComponent(url.password)];
    return { server, credentials: { user, password } };
  } catch {
    return null; // a % that stands for nothing
  }
}

/** For people and logs: never the credentials. */
export function proxyName(proxy: HttpProxy): string {
  return formatHostPort(proxy.server);
}

/** For people, who should see that there are credentials. */
export function redactedUrl(proxy: HttpProxy): string {
  return `http://${proxy.credentials === null ? "" : "***@"}${formatHostPort(proxy.server)}`;
}

/** The URL that fetch and WebSocket take, at one of the proxy's addresses. Secret where there are credentials. */
export function proxyUrl(proxy: HttpProxy, address: IpAddress): string {
  const host = familyOf(address) === 4 ? address : `[${address}]`;
  const { credentials } = proxy;
  const login =
    credentials === null ? "" : `${encodeURIComponent(credentials.user)}:${encodeURIComponent(credentials.password)}@`;
  return `http://${login}${host}:${proxy.server.port}`;
}

/** RFC 7617: the value of Proxy-Authorization. */
export function basicLogin(credentials: { readonly user: string; readonly password: string }): string {
  return `Basic ${Buffer.from(`${credentials.user}:${credentials.password}`, "utf8").toString("base64")}`;
}

/**
 * NO_PROXY as other programs read it: a list of names (which stand for what is below them too), addresses, prefixes, each with a
 * port or without, or `*`.
 */
export function isExcepted(server: HostPort, noProxy: string): boolean {
  return noProxy
    .split(/[\s,]+/)
    .filter((entry) => entry !== "")
    .some((entry) => entry === "*" || matches(server, entry.toLowerCase()));
}

function matches(server: HostPort, entry: string): boolean {
  const address = parseIp(server.host);
  const prefix: Cidr | null = parseCidr(entry);
  if (prefix !== null) return address !== null && cidrContains(prefix, address);
  const named = parseHostPort(entry.replace(/^\*?\./, ""), server.port);
  if (named?.port !== server.port) return false;
  return server.host === named.host || (address === null && server.host.endsWith(`.${named.host}`));
}
