// Path checks: STUN Binding messages between the two ends of a session, under a key for each direction.
//
// Request     USERNAME = session id, 8 hex digits · USE-CANDIDATE when the sender has chosen this path · PADDING for a size
// Success     XOR-MAPPED-ADDRESS = where the request came from · PADDING up to the size of the request
//
// Both end with MESSAGE-INTEGRITY-SHA256 under the sender's key (RFC 8489 section 14.6); whatever lacks it is not acted on.
import type { Endpoint } from "../base/ip.ts";
import { BINDING, bindingRequest, bindingSuccess, checkIntegrity, decodeStun, encodeStun } from "../proto/stun.ts";
import type { StunAttribute } from "../proto/stun-attribute.ts";

export interface CheckKeys {
  readonly session: number;
  /** 32 bytes each. */
  readonly send: Uint8Array;
  readonly receive: Uint8Array;
}

/**
 * The UDP payload of a full tunnel packet: an inner packet of 1420 bytes, and WireGuard's header and tag of 32.
 * Over IPv6 that is exactly 1500 bytes on the wire.
 */
export const FULL_BYTES = 1452;
/** Tunnel MTUs to fall back to, as UDP payloads: 1340 for a tunnel in a tunnel, 1280 as the least that IPv6 allows. */
export const SMALLER_BYTES: readonly number[] = [1372, 1312];

export function sessionName(session: number): string {
  return session.toString(16).padStart(8, "0");
}

export function checkRequest(
  keys: CheckKeys,
  check: { readonly transactionId: Uint8Array; readonly nominate: boolean; readonly sizeBytes: number | null },
): Uint8Array {
  const attributes: StunAttribute[] = [{ type: "username", text: sessionName(keys.session) }];
  if (check.nominate) attributes.push({ type: "use-candidate" });
  return encodeStun(bindingRequest(check.transactionId, attributes), {
    integrityKey: keys.send,
    ...(check.sizeBytes === null ? {} : { sizeBytes: check.sizeBytes }),
  });
}

/** `sizeBytes`: of the request, so that the answer shows what passes on the way back, too. */
export function checkAnswer(
  keys: CheckKeys,
  answer: { readonly transactionId: Uint8Array; readonly mapped: Endpoint; readonly sizeBytes: number },
): Uint8Array {
  const { transactionId, mapped, sizeBytes } = answer;
  return encodeStun(bindingSuccess(transactionId, { mapped }), { integrityKey: keys.send, sizeBytes });
}

export type Incoming =
  | { readonly kind: "request"; readonly user: string; readonly transactionId: Uint8Array; readonly nominated: boolean }
  | { readonly kind: "answer"; readonly transactionId: Uint8Array; readonly mapped: Endpoint };

/** What a datagram says, before anything of it is believed; null for what is no path check. */
export function readIncoming(bytes: Uint8Array): Incoming | null {
  const message = decodeStun(bytes);
  if (message === null || message.method !== BINDING) return null;
  const { transactionId, attributes } = message;
  if (message.class === "request") {
    const nominated = attributes.some((attribute) => attribute.type === "use-candidate");
    for (const attribute of attributes) {
      if (attribute.type === "username") return { kind: "request", user: attribute.text, transactionId, nominated };
    }
    return null;
  }
  if (message.class !== "success") return null;
  for (const attribute of attributes) {
    if (attribute.type === "xor-mapped-address") return { kind: "answer", transactionId, mapped: attribute.endpoint };
  }
  return null;
}

/** True when the peer made it, for this session, in this direction. */
export function isFromPeer(bytes: Uint8Array, keys: CheckKeys): boolean {
  return checkIntegrity(bytes, keys.receive);
}
