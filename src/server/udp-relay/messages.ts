// What the relay and the ends of a session say to each other at the session's UDP port: STUN Binding under a key for each direction.
//
// Request     USERNAME = session id, 8 hex digits
// Success     XOR-MAPPED-ADDRESS = where the request came from
//
// Both end with MESSAGE-INTEGRITY-SHA256 under the sender's key (RFC 8489 section 14.6). A Binding message that is under none of the
// relay's keys is a check of the one end for the other: between linked ends it is passed on unread, as a packet is.
import type { Endpoint } from "../../base/ip.ts";
import { BINDING, bindingRequest, bindingSuccess, checkIntegrity, decodeStun, encodeStun } from "../../proto/stun.ts";
import type { End } from "./state.ts";

/** 32 bytes each, in the order of the session's ends. */
export interface RelayKeys {
  readonly toEnd: readonly [Uint8Array, Uint8Array];
  readonly fromEnd: readonly [Uint8Array, Uint8Array];
}

export type RelayMessage =
  | { readonly kind: "request"; readonly user: string; readonly transactionId: Uint8Array }
  | { readonly kind: "answer"; readonly transactionId: Uint8Array };

export function sessionName(session: number): string {
  return session.toString(16).padStart(8, "0");
}

/** Before anything of it is believed; null for what is neither a request with a name nor a success. */
export function readRelayMessage(bytes: Uint8Array): RelayMessage | null {
  const message = decodeStun(bytes);
  if (message === null || message.method !== BINDING) return null;
  const { transactionId, attributes } = message;
  if (message.class === "success") return { kind: "answer", transactionId };
  if (message.class !== "request") return null;
  for (const attribute of attributes) {
    if (attribute.type === "username") return { kind: "request", user: attribute.text, transactionId };
  }
  return null;
}

/** The end whose key the message was made with; null for none. `likely` is tried first. */
export function senderOf(bytes: Uint8Array, keys: RelayKeys, likely: End): End | null {
  const other: End = likely === 0 ? 1 : 0;
  for (const end of [likely, other]) if (checkIntegrity(bytes, keys.fromEnd[end])) return end;
  return null;
}

export function challengeBytes(
  transactionId: Uint8Array,
  as: { readonly session: number; readonly key: Uint8Array },
): Uint8Array {
  const user = sessionName(as.session);
  return encodeStun(bindingRequest(transactionId, [{ type: "username", text: user }]), { integrityKey: as.key });
}

export function answerBytes(
  answer: { readonly transactionId: Uint8Array; readonly mapped: Endpoint },
  key: Uint8Array,
): Uint8Array {
  return encodeStun(bindingSuccess(answer.transactionId, { mapped: answer.mapped }), { integrityKey: key });
}
