// Tells machines where their packets come from: a STUN responder (RFC 8489) for both families, which answers Binding requests and nothing else.
import type { udp } from "bun";
import { HiggsError } from "../base/errors.ts";
import { parseIp } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import {
  BINDING,
  bindingError,
  bindingSuccess,
  checkFingerprint,
  decodeStun,
  encodeStun,
  unknownComprehensionRequired,
} from "../proto/stun.ts";
import { limitKey } from "./caller-address.ts";
import type { RateLimit } from "./rate-limit.ts";

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
  readonly counters: Readonly<StunCounters>;
}

/** UDP payload of the largest request that is read: one that fills a packet to measure its way is answered too. */
const MOST_REQUEST_BYTES = 1500;
/** RFC 8489 section 6.3.1. */
const UNKNOWN_ATTRIBUTE = 420;

/**
 * The answer to a datagram, or null for none. It is never larger than twice the packet that asked: a forged sender gains nothing.
 * What a request carries of integrity is not looked at, since nothing that is told here is secret (RFC 8489 section 9 asks for no credential).
 */
export function stunAnswer(
  datagram: Uint8Array,
  from: { readonly address: string; readonly port: number },
): Uint8Array | null {
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
  return encodeStun(answer, { fingerprint });
}

/** `host`: an address; `::` takes both families. Throws StunServerError `port-busy` or `stun-failed`. */
export async function stunServer(
  deps: { readonly limit: RateLimit; readonly log: Logger },
  options: { readonly host: string; readonly port: number },
): Promise<StunServer> {
  const counters: StunCounters = { answered: 0, ignored: 0, limited: 0, unsent: 0 };
  const handlers = {
    data(socket: udp.Socket<"buffer">, datagram: Uint8Array, port: number, address: string): void {
      const answer = stunAnswer(datagram, { address, port });
      if (answer === null) {
        counters.ignored++;
      } else if (deps.limit.take(limitKey(parseIp(address))) > 0) {
        counters.limited++;
      } else if (socket.send(answer, port, address)) {
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
  const socket = await bind(options, handlers);
  let isClosed = false;
  return {
    port: socket.port,
    counters,
    [Symbol.asyncDispose]() {
      if (!isClosed) socket.close();
      isClosed = true;
      return Promise.resolve();
    },
  };
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
