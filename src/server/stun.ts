// Tells machines where their packets come from: a STUN responder (RFC 8489) for both families, which answers Binding requests and nothing else.
//
// Anybody gets an answer. A request with the USERNAME of a machine and MESSAGE-INTEGRITY-SHA256 under its key of this start gets one
// under the same key, and the server keeps for a minute where it saw the machine. With RESPONSE-PORT it gets the answer at another port of its
// own address, and shows so how long its router keeps a mapping that nobody uses; such a request says nothing of where the machine is.
import type { udp } from "bun";
import { errorText, HiggsError } from "../base/errors.ts";
import { type Endpoint, parseIp } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import {
  BINDING,
  bindingError,
  bindingSuccess,
  checkFingerprint,
  checkIntegrity,
  decodeStun,
  encodeStun,
  type StunMessage,
  unknownComprehensionRequired,
} from "../proto/stun.ts";
import { limitKey } from "./caller-address.ts";
import type { RateLimit } from "../base/rate-limit.ts";

export class StunServerError extends HiggsError {
  override readonly name = "StunServerError";
}

export interface StunCounters {
  answered: number;
  /** No STUN, no request, or no Binding. */
  ignored: number;
  /** Over the limit of their address. */
  limited: number;
  /** The kernel's buffer was full. */
  unsent: number;
}

export interface StunServer extends Service {
  readonly port: number;
  /** The first is `port`; the other shows whether a machine's router gives it one address for all. Only one where that is taken. */
  readonly ports: readonly number[];
  readonly counters: Readonly<StunCounters>;
}

/** UDP payload of the largest request that is read: one that fills a packet to measure its way is answered too. */
const MOST_REQUEST_BYTES = 1500;
/** RFC 8489 section 6.3.1. */
const UNKNOWN_ATTRIBUTE = 420;

/** Machines that the responder knows by their key. */
export interface StunUsers {
  /** 32 bytes, for any text. */
  keyOf(user: string): Uint8Array;
  /** A request under that user's key came from there. */
  note(user: string, endpoint: Endpoint): void;
}

export interface StunAnswer {
  readonly bytes: Uint8Array;
  /** At the address that asked. */
  readonly port: number;
}

/**
 * The answer to a datagram, or null for none. It is never larger than twice the packet that asked: a forged sender gains nothing.
 * Nothing that is told here is secret, so a request without a key is answered without one (RFC 8489 section 9 asks for no credential).
 */
export function stunAnswer(
  datagram: Uint8Array,
  from: { readonly address: string; readonly port: number },
  users: StunUsers | null = null,
): StunAnswer | null {
  const address = parseIp(from.address);
  if (address === null || from.port === 0 || datagram.length > MOST_REQUEST_BYTES) return null;
  const request = decodeStun(datagram);
  if (request === null || request.class !== "request" || request.method !== BINDING) return null;
  const fingerprint = request.attributes.some((attribute) => attribute.type === "fingerprint");
  if (fingerprint && !checkFingerprint(datagram)) return null;
  const unknown = unknownComprehensionRequired(request);
  const answer =
    unknown.length > 0
      ? bindingError(request.transactionId, { code: UNKNOWN_ATTRIBUTE, unknown })
      : bindingSuccess(request.transactionId, { mapped: { address, port: from.port } });
  const endpoint = { address, port: from.port };
  const elsewhere = portOf(request);
  const key = users === null ? null : userKey(datagram, request, { users, endpoint, isNoted: elsewhere === null });
  // Nobody but a machine of the network has packets sent anywhere but to where it sits.
  if (elsewhere !== null && key === null) return null;
  const bytes = encodeStun(answer, { fingerprint, ...(key === null ? {} : { integrityKey: key }) });
  return { bytes, port: elsewhere ?? from.port };
}

function portOf({ attributes }: StunMessage): number | null {
  for (const attribute of attributes) if (attribute.type === "response-port") return attribute.port;
  return null;
}

/** A user's name is a machine's id; what is longer is none. */
const LONGEST_USER = 64;

function userKey(
  datagram: Uint8Array,
  request: StunMessage,
  on: { readonly users: StunUsers; readonly endpoint: Endpoint; readonly isNoted: boolean },
): Uint8Array | null {
  let user: string | null = null;
  let hasIntegrity = false;
  for (const attribute of request.attributes) {
    if (attribute.type === "username") user = attribute.text;
    if (attribute.type === "message-integrity-sha256") hasIntegrity = true;
  }
  if (user === null || user.length > LONGEST_USER || !hasIntegrity) return null;
  const key = on.users.keyOf(user);
  if (!checkIntegrity(datagram, key)) return null;
  if (on.isNoted) on.users.note(user, on.endpoint);
  return key;
}

/** `host`: an address; `::` takes both families. Port 0 takes free ones. Throws StunServerError `port-busy` or `stun-failed`. */
export async function stunServer(
  deps: { readonly limit: RateLimit; readonly users: StunUsers; readonly log: Logger },
  options: { readonly host: string; readonly port: number },
): Promise<StunServer> {
  const counters: StunCounters = { answered: 0, ignored: 0, limited: 0, unsent: 0 };
  const handlers = {
    data(socket: udp.Socket<"buffer">, datagram: Uint8Array, port: number, address: string): void {
      const caller = limitKey(parseIp(address));
      // Who is over the limit has no key computed.
      const users = deps.limit.waitMs(caller) > 0 ? null : deps.users;
      const answer = stunAnswer(datagram, { address, port }, users);
      if (answer === null) {
        counters.ignored++;
      } else if (deps.limit.take(caller) > 0) {
        counters.limited++;
      } else if (socket.send(answer.bytes, answer.port, address)) {
        counters.answered++;
      } else {
        counters.unsent++;
      }
    },
    error(_socket: udp.Socket<"buffer">, error: Error): void {
      // An ICMP error that one of our answers caused; without this handler it would end the process.
      deps.log.debug({ error: error.message }, "stun socket error");
    },
  };
  const first = await bind(options, handlers);
  const second = await bindSecond({ host: options.host, port: options.port }, handlers, deps.log);
  const sockets = second === null ? [first] : [first, second];
  let isClosed = false;
  return {
    port: first.port,
    ports: sockets.map((socket) => socket.port),
    counters,
    [Symbol.asyncDispose]() {
      if (!isClosed) for (const socket of sockets) socket.close();
      isClosed = true;
      return Promise.resolve();
    },
  };
}

/** The port after the first one. Without it machines cannot tell what kind of router they are behind, and all else works. */
async function bindSecond(
  first: { readonly host: string; readonly port: number },
  socket: udp.SocketHandler<"buffer">,
  log: Logger,
): Promise<udp.Socket<"buffer"> | null> {
  const port = first.port === 0 ? 0 : first.port + 1;
  if (port > 65_535) return null;
  try {
    return await bind({ host: first.host, port }, socket);
  } catch (thrown) {
    log.warn({ port, error: errorText(thrown) }, "no second STUN port");
    return null;
  }
}

async function bind(
  options: { readonly host: string; readonly port: number },
  socket: udp.SocketHandler<"buffer">,
): Promise<udp.Socket<"buffer">> {
  // A kernel without IPv6 still has IPv4.
  const hosts = options.host === "::" ? ["::", "0.0.0.0"] : [options.host];
  let failure: unknown;
  for (const hostname of hosts) {
    try {
      return await Bun.udpSocket({ hostname, port: options.port, socket });
    } catch (thrown) {
      failure ??= thrown;
      if (codeOf(thrown) === "EADDRINUSE") break;
    }
  }
  if (codeOf(failure) === "EADDRINUSE") {
    throw new StunServerError(`Cannot answer STUN: UDP port ${options.port} is in use.`, {
      code: "port-busy",
      remedy: `See who has it: ss -ulnp 'sport = :${options.port}', or choose another port with --stun-port.`,
      cause: failure,
    });
  }
  throw new StunServerError(`Cannot answer STUN on ${options.host}, UDP port ${options.port}.`, {
    code: "stun-failed",
    remedy: "Choose another port with --stun-port, or another address with --listen.",
    cause: failure,
  });
}

function codeOf(thrown: unknown): string {
  return thrown instanceof Error && "code" in thrown ? String(thrown.code) : "";
}
