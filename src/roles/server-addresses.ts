// Where the server listens, by which names machines reach it, and whose word about a caller's address it believes: from its settings and its interfaces.
import {
  type Cidr,
  cidrParts,
  familyOf,
  type HostPort,
  type IpAddress,
  parseCidr,
  parseHostPort,
  parseIp,
} from "../base/ip.ts";
import { DEFAULT_PORT } from "../proto/invite.ts";
import { type Config, UsageError } from "./config.ts";

/** As many as an invite, a proof and a welcome carry. */
const MOST_NAMES = 16;
/** Only this machine's own programs have these: with `--tls off` the reverse proxy, without which nobody gets here. */
const LOOPBACK: readonly Cidr[] = ["127.0.0.0/8" as Cidr, "::1/128" as Cidr];

/** With `--tls off` a reverse proxy on the same machine is the only one that may talk to us. */
export function listenAddress(config: Config<"server">): HostPort {
  const listen = parseHostPort(config.listen, DEFAULT_PORT) ?? { host: "::", port: DEFAULT_PORT };
  if (config.tls !== "off") return listen;
  return { host: isLoopback(listen.host) ? listen.host : "127.0.0.1", port: listen.port };
}

/** No proxy of HTTP passes STUN on: behind one, it listens on all addresses. */
export function stunHost(config: Config<"server">): string {
  return config.tls === "off" ? "::" : listenAddress(config).host;
}

/** Throws UsageError for what is no address or prefix. */
export function trustedProxies(config: Config<"server">): readonly Cidr[] {
  const named = config.trustedProxy.map(proxyPrefix);
  // Without it, all machines would be one caller: the proxy.
  return config.tls === "off" ? [...LOOPBACK, ...named] : named;
}

/** An entry of `os.networkInterfaces()`. */
export interface InterfaceAddress {
  readonly address: string;
  readonly internal: boolean;
}

/**
 * `--public`, or the addresses of this machine that the internet could route, or any at all: up to 16, IPv4 first, since of IPv6 a machine
 * may have many that change every day. Throws UsageError when there is none.
 */
export function publicNames(
  config: Config<"server">,
  port: number,
  interfaces: readonly InterfaceAddress[],
): readonly [HostPort, ...HostPort[]] {
  if (config.public !== null) {
    const name = parseHostPort(config.public, config.tls === "off" ? DEFAULT_PORT : port);
    if (name !== null) return [name];
  }
  const addresses = interfaces
    .filter((entry) => !entry.internal && !/^fe[89ab]/i.test(entry.address))
    .map((entry) => parseIp(entry.address))
    .filter((address) => address !== null);
  const open = addresses.filter((address) => !isPrivate(address));
  const [first, ...rest] = [...new Set(open.length > 0 ? open : addresses)]
    .toSorted((a, b) => familyOf(a) - familyOf(b))
    .slice(0, MOST_NAMES)
    .map((host) => ({ host, port }));
  if (first !== undefined) return [first, ...rest];
  throw new UsageError("Cannot tell by which address machines reach this server: it has none but loopback.", {
    code: "usage",
    remedy: "--public HOST[:PORT]",
  });
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.");
}

/** RFC 1918, RFC 6598, RFC 3927, RFC 4193. */
function isPrivate(address: IpAddress): boolean {
  return /^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|169\.254\.|f[cd])/.test(
    address,
  );
}

function proxyPrefix(text: string): Cidr {
  const address = parseIp(text);
  const prefix = parseCidr(address === null ? text : `${text}/${text.includes(":") ? 128 : 32}`);
  if (prefix !== null && cidrParts(prefix).length > 0) return prefix;
  throw new UsageError(`Cannot use "${text}" for --trusted-proxy: it is no address or prefix.`, { code: "usage" });
}
