// STUN messages (RFC 8489): decoding, encoding, integrity and fingerprint, for discovery and path checks.
//
// | 00 | type 14 bits | length u16 | cookie u32 = 0x2112a442 | transaction id 12 | attributes |       section 5
//
// `length` counts the bytes after the 20 of the header and is a multiple of 4. The 14 bits of `type`, highest first:
//   M11 M10 M9 M8 M7 C1 M6 M5 M4 C0 M3 M2 M1 M0          M the method, C1 C0 the class
//   class 00 request, 01 indication, 10 success, 11 error; a Binding request is 0x0001, its success 0x0101
//
// Attributes are drawn in stun-attribute.ts. At the end, in this order, where a message has them:
//   MESSAGE-INTEGRITY          HMAC-SHA1 over all before it      } with `length` as if the message ended
//   MESSAGE-INTEGRITY-SHA256   HMAC-SHA256 over all before it    } right after that attribute
//   FINGERPRINT                (CRC-32 over all before it) XOR 0x5354554e; the last attribute
import { hmac } from "@noble/hashes/hmac.js";
import { sha1 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { ByteReader, ByteWriter, equalSecrets } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { Endpoint } from "../base/ip.ts";
import {
  ATTRIBUTE,
  attributeCode,
  attributeValue,
  decodeAttribute,
  FINGERPRINT_XOR,
  MAGIC_COOKIE,
  type StunAttribute,
} from "./stun-attribute.ts";

const CLASSES = ["request", "indication", "success", "error"] as const;
export type StunClass = (typeof CLASSES)[number];

export interface StunMessage {
  readonly class: StunClass;
  /** 12 bits. */
  readonly method: number;
  /** 12 bytes, random per request. */
  readonly transactionId: Uint8Array;
  /** In the order of the wire. An attribute that integrity does not cover is not here. */
  readonly attributes: readonly StunAttribute[];
}

export interface StunEncoding {
  /** Adds MESSAGE-INTEGRITY-SHA256, or MESSAGE-INTEGRITY when `integrity` says "sha1". */
  readonly integrityKey?: Uint8Array;
  readonly integrity?: "sha1" | "sha256";
  readonly fingerprint?: boolean;
  /** Fills the message with PADDING up to the largest multiple of 4 within this size; one that is larger stays as it is. */
  readonly sizeBytes?: number;
}

/** A message that the format has no room for: a fault of the caller, never of the network. */
export class StunError extends HiggsError {
  override readonly name = "StunError";
}

export const BINDING = 0x001;
const HEADER_BYTES = 20;
const SHA1_BYTES = 20;
const SHA256_BYTES = 32;

interface Span {
  readonly code: number;
  /** Where the attribute's own header starts. */
  readonly at: number;
  readonly value: Uint8Array;
}

/** The attributes' places; null for whatever has not the shape of a STUN message. */
function spansOf(bytes: Uint8Array): Span[] | null {
  if (bytes.length < HEADER_BYTES || bytes.length % 4 !== 0 || ((bytes[0] ?? 0) & 0xc0) !== 0) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint16(2) !== bytes.length - HEADER_BYTES || view.getUint32(4) !== MAGIC_COOKIE) return null;
  const spans: Span[] = [];
  let at = HEADER_BYTES;
  while (at < bytes.length) {
    const start = at + 4;
    const end = start + view.getUint16(at + 2);
    if (end > bytes.length) return null;
    spans.push({ code: view.getUint16(at), at, value: bytes.subarray(start, end) });
    at = Math.ceil(end / 4) * 4;
  }
  return spans;
}

/**
 * The message, or null for anything that is none: wrong first bits, cookie, length or bounds, or a value that its type does not allow.
 * Never throws. What stands behind an integrity attribute, and is not one itself or FINGERPRINT, is left out (section 14.5).
 */
export function decodeStun(bytes: Uint8Array): StunMessage | null {
  const spans = spansOf(bytes);
  if (spans === null) return null;
  const reader = new ByteReader(bytes);
  const type = reader.u16();
  reader.take(6);
  const transactionId = reader.take(12).slice();
  const attributes: StunAttribute[] = [];
  let covered = true;
  for (const { code, value } of spans) {
    const isEnd = code === ATTRIBUTE["message-integrity-sha256"] || code === ATTRIBUTE.fingerprint;
    if (!covered && !isEnd) continue;
    const attribute = decodeAttribute(code, value, transactionId);
    if (attribute === null) return null;
    attributes.push(attribute);
    if (isEnd || code === ATTRIBUTE["message-integrity"]) covered = false;
  }
  const stunClass = CLASSES[((type >> 7) & 2) | ((type >> 4) & 1)] ?? "request";
  return {
    class: stunClass,
    method: (type & 0xf) | ((type >> 1) & 0x70) | ((type >> 2) & 0xf80),
    transactionId,
    attributes,
  };
}

/**
 * The message's attributes as they are given, then PADDING, integrity and FINGERPRINT as the options ask.
 * Throws StunError `stun-unencodable` for a message that the format has no room for.
 */
export function encodeStun(message: StunMessage, options: StunEncoding = {}): Uint8Array {
  const { transactionId, method } = message;
  if (transactionId.length !== 12) throw unencodable(`its transaction id has ${transactionId.length} bytes, not 12`);
  if (method < 0 || method > 0xfff) throw unencodable(`its method ${method} has more than 12 bits`);
  const body = new ByteWriter();
  let length = 0;
  const add = (code: number, value: Uint8Array): void => {
    const filler = -value.length & 3;
    length += 4 + value.length + filler;
    if (length > 0xffff) throw unencodable("it is longer than 65 535 bytes");
    body.u16(code).u16(value.length).bytes(value).bytes(new Uint8Array(filler));
  };
  const soFar = (endBytes: number): Uint8Array =>
    new ByteWriter()
      .bytes(header(message, length + endBytes))
      .bytes(body.finish())
      .finish();

  for (const attribute of message.attributes) add(attributeCode(attribute), attributeValue(attribute, transactionId));
  const key = options.integrityKey;
  const macBytes = options.integrity === "sha1" ? SHA1_BYTES : SHA256_BYTES;
  if (options.sizeBytes !== undefined) {
    const end = (key === undefined ? 0 : 4 + macBytes) + (options.fingerprint === true ? 8 : 0);
    const room = options.sizeBytes - HEADER_BYTES - length - end;
    if (room >= 4) add(ATTRIBUTE.padding, new Uint8Array((room & ~3) - 4));
  }
  if (key !== undefined) {
    const covered = soFar(4 + macBytes);
    if (options.integrity === "sha1") add(ATTRIBUTE["message-integrity"], hmac(sha1, key, covered));
    else add(ATTRIBUTE["message-integrity-sha256"], hmac(sha256, key, covered));
  }
  if (options.fingerprint === true) {
    const crc = crc32(soFar(8));
    add(ATTRIBUTE.fingerprint, attributeValue({ type: "fingerprint", crc }, transactionId));
  }
  return soFar(0);
}

function unencodable(why: string): StunError {
  return new StunError(`Cannot encode a STUN message: ${why}.`, { code: "stun-unencodable" });
}

function header(message: StunMessage, length: number): Uint8Array {
  const { method } = message;
  const bits = CLASSES.indexOf(message.class);
  const type =
    (method & 0xf) | ((method & 0x70) << 1) | ((method & 0xf80) << 2) | ((bits & 1) << 4) | ((bits & 2) << 7);
  return new ByteWriter().u16(type).u16(length).u32(MAGIC_COOKIE).bytes(message.transactionId).finish();
}

/**
 * True for a message whose integrity attribute was made with this key. Where it has both, SHA-256 decides (section 9.1.3).
 * A message without one is false. The comparison takes the same time whatever differs.
 */
export function checkIntegrity(bytes: Uint8Array, key: Uint8Array): boolean {
  const spans = spansOf(bytes) ?? [];
  const strong = spans.find((span) => span.code === ATTRIBUTE["message-integrity-sha256"]);
  const span = strong ?? spans.find((candidate) => candidate.code === ATTRIBUTE["message-integrity"]);
  if (span === undefined || span.value.length !== (strong === undefined ? SHA1_BYTES : SHA256_BYTES)) return false;
  const covered = bytes.slice(0, span.at);
  new DataView(covered.buffer).setUint16(2, span.at + 4 + span.value.length - HEADER_BYTES);
  const expected = strong === undefined ? hmac(sha1, key, covered) : hmac(sha256, key, covered);
  return equalSecrets(expected, span.value);
}

/** True for a message whose last attribute is a FINGERPRINT that fits. */
export function checkFingerprint(bytes: Uint8Array): boolean {
  const span = spansOf(bytes)?.at(-1);
  if (span?.code !== ATTRIBUTE.fingerprint || span.value.length !== 4) return false;
  return new ByteReader(span.value).u32() === (crc32(bytes.subarray(0, span.at)) ^ FINGERPRINT_XOR) >>> 0;
}

/** CRC-32 of ISO 3309, as in Ethernet and zip: reflected polynomial 0xedb88320. */
function crc32(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb8_8320 & -(crc & 1));
  }
  return ~crc >>> 0;
}

/** Attributes that whoever acts on a request must understand, and that higgs does not: the answer is error 420 (section 6.3.1). */
export function unknownComprehensionRequired(message: StunMessage): number[] {
  const codes = message.attributes.filter((attribute) => attribute.type === "unknown").map(attributeCode);
  return [...new Set(codes.filter((code) => code < 0x8000))];
}

export function bindingRequest(transactionId: Uint8Array, attributes: readonly StunAttribute[] = []): StunMessage {
  return { class: "request", method: BINDING, transactionId, attributes };
}

/** `mapped`: where the request came from, as its receiver saw it. */
export function bindingSuccess(
  transactionId: Uint8Array,
  answer: { readonly mapped: Endpoint; readonly attributes?: readonly StunAttribute[] },
): StunMessage {
  const mapped: StunAttribute = { type: "xor-mapped-address", endpoint: answer.mapped };
  return { class: "success", method: BINDING, transactionId, attributes: [mapped, ...(answer.attributes ?? [])] };
}

/** `unknown`: for code 420, what was not understood. */
export function bindingError(
  transactionId: Uint8Array,
  error: { readonly code: number; readonly reason?: string; readonly unknown?: readonly number[] },
): StunMessage {
  const attributes: StunAttribute[] = [{ type: "error-code", code: error.code, reason: error.reason ?? "" }];
  if (error.unknown !== undefined) attributes.push({ type: "unknown-attributes", types: error.unknown });
  return { class: "error", method: BINDING, transactionId, attributes };
}
