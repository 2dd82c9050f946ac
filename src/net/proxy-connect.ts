// A TCP connection through an HTTP proxy, by CONNECT (RFC 9110 section 9.3.6), and in so many words why there is none.
//
//   CONNECT host:port HTTP/1.1 CRLF
//   Host: host:port CRLF
//   [Proxy-Authorization: Basic … CRLF]
//   CRLF                                  -> HTTP/1.x SP status SP reason CRLF (field CRLF)* CRLF
//
// In TLS the client speaks first: bytes that come with the answer are not the server's.
import { connect, type Socket } from "node:net";
import { HiggsError } from "../base/errors.ts";
import { formatHostPort, type HostPort, type IpAddress } from "../base/ip.ts";
import { basicLogin, type HttpProxy, proxyName } from "./http-proxy.ts";

/**
 * `proxy-unreachable`: nothing answers there. `proxy-login`: it wants other credentials. `proxy-refused`: it does not connect to that
 * host and port. `proxy-no-way`: it would, and cannot. `proxy-not-http`: what answers is no HTTP proxy.
 */
export class ProxyError extends HiggsError {
  override readonly name = "ProxyError";
}

/** An HTTP proxy at one of its addresses. */
export interface ProxyAt {
  readonly proxy: HttpProxy;
  readonly address: IpAddress;
}

/** Real answers have some hundred bytes. */
const MOST_HEADER_BYTES = 16_384;
const ANOTHER = "or name another with --proxy URL, or none with --proxy none";

/** Resolves with a paused socket that leads to the server. Throws ProxyError, or the signal's reason; the deadline is the caller's. */
export async function connectThrough(via: ProxyAt, target: HostPort, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted();
  const socket = connect({ host: via.address, port: via.proxy.server.port });
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  let head = Buffer.alloc(0);
  const onAbort = (): void => reject(signal.reason as Error);
  const onError = (cause: Error): void => reject(proxyUnreachable(via.proxy, target, cause));
  const onEnd = (): void => {
    const said = head.length === 0 ? "it closed the connection without an answer" : "it is no HTTP proxy";
    reject(notHttp(via, target, said));
  };
  const onData = (bytes: Buffer): void => {
    head = Buffer.concat([head, bytes]);
    const end = head.indexOf("\r\n\r\n");
    if (end < 0 ? head.length > MOST_HEADER_BYTES : end > MOST_HEADER_BYTES) {
      reject(notHttp(via, target, "its answer has no end"));
      return;
    }
    // What is not HTTP from its first bytes need not be waited for.
    if (!"HTTP/1.".startsWith(head.toString("latin1", 0, Math.min(7, head.length)))) {
      reject(notHttp(via, target, "what answers there is no HTTP proxy"));
      return;
    }
    if (end < 0) return;
    const failure = refusalOf(head.toString("latin1", 0, end), via, target);
    if (failure !== null) {
      reject(failure);
      return;
    }
    if (head.length > end + 4) {
      reject(notHttp(via, target, "it goes on talking where a server would listen"));
      return;
    }
    socket.off("data", onData);
    socket.pause();
    resolve(socket);
  };
  signal.addEventListener("abort", onAbort, { once: true });
  socket.once("error", onError);
  socket.once("end", onEnd);
  socket.once("close", onEnd);
  socket.on("data", onData);
  socket.once("connect", () => socket.write(request(via.proxy, target)));
  try {
    return await promise;
  } catch (thrown) {
    socket.on("error", () => undefined); // it is given up; what else befalls it is nobody's concern
    socket.destroy();
    throw thrown;
  } finally {
    signal.removeEventListener("abort", onAbort);
    socket.off("error", onError);
    socket.off("end", onEnd);
    socket.off("close", onEnd);
  }
}

function request(proxy: HttpProxy, target: HostPort): string {
  const host = formatHostPort(target);
  const login = proxy.credentials === null ? "" : `Proxy-Authorization: ${basicLogin(proxy.credentials)}\r\n`;
  return `CONNECT ${host} HTTP/1.1\r\nHost: ${host}\r\n${login}\r\n`;
}

/** Null for an answer by which the connection stands: any 2xx. */
export function refusalOf(head: string, via: Pick<ProxyAt, "proxy">, target: HostPort): ProxyError | null {
  const match = /^HTTP\/1\.[01] (\d{3})(?: ([^\r\n]*))?(?:\r\n|$)/.exec(head);
  if (match === null) return notHttp(via, target, "what answers there is no HTTP proxy");
  const status = Number(match[1]);
  if (status >= 200 && status < 300) return null;
  const said = `${status} ${printable(match[2] ?? "")}`.trim();
  const detail = { status };
  const where = formatHostPort(target);
  if (status === 407) return loginRefused(head, via.proxy, target);
  if (status === 502 || status === 503 || status === 504) {
    return new ProxyError(`${cannot(via.proxy, target)}: the proxy itself does not reach it (${said}).`, {
      code: "proxy-no-way",
      remedy: `Check that \`higgs server\` runs at ${where} and that its TCP port is open.`,
      detail,
    });
  }
  return new ProxyError(`${cannot(via.proxy, target)}: the proxy refuses it (${said}).`, {
    code: "proxy-refused",
    remedy: `Ask whoever runs the proxy to allow CONNECT to ${where}; many allow port 443 alone, ${ANOTHER}.`,
    detail,
  });
}

function loginRefused(head: string, proxy: HttpProxy, target: HostPort): ProxyError {
  const schemes = [...head.matchAll(/\r\nproxy-authenticate:[ \t]*([A-Za-z0-9-]+)/gi)].map((match) => match[1] ?? "");
  const takesBasic = schemes.length === 0 || schemes.some((scheme) => scheme.toLowerCase() === "basic");
  const what = !takesBasic
    ? `the proxy wants a login by ${schemes.join(" or ")}, and higgs knows only Basic`
    : proxy.credentials === null
      ? "the proxy wants a user name and a password"
      : "the proxy refuses the user name and the password";
  return new ProxyError(`${cannot(proxy, target)}: ${what}.`, {
    code: "proxy-login",
    remedy: takesBasic
      ? `Put http://USER:PASSWORD@${proxyName(proxy)} into a file (chmod 600), and start with --proxy file:PATH.`
      : "Run a proxy on this machine that logs in for it, and name that one with --proxy.",
    detail: { status: 407 },
  });
}

/** Also for a name that does not resolve, and for a proxy that is silent. */
export function proxyUnreachable(
  proxy: HttpProxy,
  target: HostPort,
  cause: unknown,
  what = "the proxy does not answer",
): ProxyError {
  return new ProxyError(`${cannot(proxy, target)}: ${what}.`, {
    code: "proxy-unreachable",
    remedy: `Check that the proxy is at ${proxyName(proxy)} and that this network leads there, ${ANOTHER}.`,
    cause,
  });
}

function notHttp(via: Pick<ProxyAt, "proxy">, target: HostPort, what: string): ProxyError {
  return new ProxyError(`${cannot(via.proxy, target)}: ${what}.`, {
    code: "proxy-not-http",
    remedy: `Check that an HTTP proxy is at ${proxyName(via.proxy)}, ${ANOTHER}.`,
  });
}

function cannot(proxy: HttpProxy, target: HostPort): string {
  return `Cannot reach the server at ${formatHostPort(target)} through the proxy ${proxyName(proxy)}`;
}

/** A proxy's words end up on terminals and in logs. */
function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, "?").slice(0, 60);
}
