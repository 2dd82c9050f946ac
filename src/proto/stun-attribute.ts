// STUN attributes: what higgs understands of them, and each one's value on the wire.
//
// | type u16 | length u16 | value | zero to three bytes to the next multiple of 4 |          RFC 8489 section 14
//
// Addresses (section 14.1 and 14.2)       | reserved u8 | family u8 = 1 IPv4, 2 IPv6 | port u16 | 4 or 16 bytes |
//   XOR-MAPPED-ADDRESS has the port XORed with the cookie's first two bytes, the address with cookie || transaction id.
// ERROR-CODE (section 14.8)               | reserved 21 bits | class 3 bits = 3..6 | number u8 = 0..99 | reason, UTF-8 |
// UNKNOWN-ATTRIBUTES (section 14.13)      | type u16 | type u16 | …
// RESPONSE-PORT (RFC 5780 section 7.5)    | port u16 | 0 u16 |
//
// Types below 0x8000 must be understood by whoever acts on a request; the others may be passed over.
import { ByteReader, ByteWriter, concatBytes, utf8, utf8Text } from "../base/bytes.ts";
import { type Endpoint, familyOf, ipBytes, ipFromBytes } from "../base/ip.ts";

export const MAGIC_COOKIE = 0x2112_a442;
/** What the CRC-32 of FINGERPRINT is XORed with: "STUN" in ASCII (RFC 8489 section 14.7). */
export const FINGERPRINT_XOR = 0x5354_554e;

/** RFC 8489 section 18.3; PRIORITY and USE-CANDIDATE of RFC 8445 section 20.3; PADDING and RESPONSE-PORT of RFC 5780 section 7. */
export const ATTRIBUTE = {
  "mapped-address": 0x0001,
  username: 0x0006,
  "message-integrity": 0x0008,
  "error-code": 0x0009,
  "unknown-attributes": 0x000a,
  realm: 0x0014,
  nonce: 0x0015,
  "message-integrity-sha256": 0x001c,
  "xor-mapped-address": 0x0020,
  priority: 0x0024,
  "use-candidate": 0x0025,
  padding: 0x0026,
  "response-port": 0x0027,
  software: 0x8022,
  fingerprint: 0x8028,
} as const;

export type StunAttribute =
  | { readonly type: "mapped-address" | "xor-mapped-address"; readonly endpoint: Endpoint }
  | { readonly type: "username" | "realm" | "nonce" | "software"; readonly text: string }
  | { readonly type: "message-integrity" | "message-integrity-sha256"; readonly mac: Uint8Array }
  | { readonly type: "fingerprint"; readonly crc: number }
  | { readonly type: "error-code"; readonly code: number; readonly reason: string }
  | { readonly type: "unknown-attributes"; readonly types: readonly number[] }
  | { readonly type: "priority"; readonly priority: number }
  | { readonly type: "use-candidate" }
  /** Makes a message as large as the packets that shall follow it. Its content says nothing. */
  | { readonly type: "padding"; readonly lengthBytes: number }
  /** Asks for the answer at another port of the address that asks. */
  | { readonly type: "response-port"; readonly port: number }
  /** `code` is the number on the wire. */
  | { readonly type: "unknown"; readonly code: number; readonly value: Uint8Array };

const NAMES = new Map<number, keyof typeof ATTRIBUTE>();
for (const name of Object.keys(ATTRIBUTE) as (keyof typeof ATTRIBUTE)[]) NAMES.set(ATTRIBUTE[name], name);

/** The attribute that a value says; null for a value that its type does not allow. Never throws. */
export function decodeAttribute(code: number, value: Uint8Array, transactionId: Uint8Array): StunAttribute | null {
  const type = NAMES.get(code);
  switch (type) {
    case undefined:
      return { type: "unknown", code, value: value.slice() };
    case "mapped-address":
    case "xor-mapped-address":
      return addressAttribute(type, value, transactionId);
    case "username":
    case "realm":
    case "nonce":
    case "software":
      return textAttribute(type, value);
    case "message-integrity":
      return value.length === 20 ? { type, mac: value.slice() } : null;
    case "message-integrity-sha256":
      // Section 14.6 allows usages to shorten it to 16 bytes; none of ours does.
      return value.length === 32 ? { type, mac: value.slice() } : null;
    case "fingerprint":
      return value.length === 4 ? { type, crc: (new ByteReader(value).u32() ^ FINGERPRINT_XOR) >>> 0 } : null;
    case "error-code":
      return errorAttribute(value);
    case "unknown-attributes":
      return value.length % 2 === 0 ? { type, types: u16s(value) } : null;
    case "priority":
      return value.length === 4 ? { type, priority: new ByteReader(value).u32() } : null;
    case "use-candidate":
      return value.length === 0 ? { type } : null;
    case "padding":
      return { type, lengthBytes: value.length };
    case "response-port":
      return responsePort(value);
  }
}

function responsePort(value: Uint8Array): StunAttribute | null {
  if (value.length !== 4) return null;
  const port = new ByteReader(value).u16();
  return port === 0 ? null : { type: "response-port", port };
}

function addressAttribute(
  type: "mapped-address" | "xor-mapped-address",
  value: Uint8Array,
  transactionId: Uint8Array,
): StunAttribute | null {
  const length = value[1] === 1 ? 4 : value[1] === 2 ? 16 : 0;
  if (length === 0 || value.length !== 4 + length) return null;
  const plain = type === "mapped-address" ? value : xored(value, transactionId);
  const port = new ByteReader(plain.subarray(2)).u16();
  const address = ipFromBytes(plain.subarray(4));
  // Port 0 is no place that anything can be sent to.
  return address === null || port === 0 ? null : { type, endpoint: { address, port } };
}

/** The value of XOR-MAPPED-ADDRESS in clear, or the other way round. */
function xored(value: Uint8Array, transactionId: Uint8Array): Uint8Array {
  const cookie = new ByteWriter().u32(MAGIC_COOKIE).finish();
  const mask = concatBytes(new Uint8Array(2), cookie.subarray(0, 2), cookie, transactionId);
  return value.map((byte, at) => byte ^ (mask[at] ?? 0));
}

function textAttribute(type: "username" | "realm" | "nonce" | "software", value: Uint8Array): StunAttribute | null {
  try {
    return { type, text: utf8Text(value) };
  } catch {
    return null; // no UTF-8: the message is dropped as a whole
  }
}

function errorAttribute(value: Uint8Array): StunAttribute | null {
  const hundreds = (value[2] ?? 0) & 7;
  const units = value[3] ?? 100;
  if (hundreds < 3 || hundreds > 6 || units > 99) return null;
  const reason = textAttribute("software", value.subarray(4));
  return reason?.type === "software" ? { type: "error-code", code: hundreds * 100 + units, reason: reason.text } : null;
}

function u16s(value: Uint8Array): number[] {
  const reader = new ByteReader(value);
  const numbers: number[] = [];
  while (reader.left > 0) numbers.push(reader.u16());
  return numbers;
}

/** The number on the wire. */
export function attributeCode(attribute: StunAttribute): number {
  return attribute.type === "unknown" ? attribute.code : ATTRIBUTE[attribute.type];
}

/** The value on the wire, without the bytes that fill it up to a multiple of 4. */
export function attributeValue(attribute: StunAttribute, transactionId: Uint8Array): Uint8Array {
  switch (attribute.type) {
    case "mapped-address":
      return addressValue(attribute.endpoint);
    case "xor-mapped-address":
      return xored(addressValue(attribute.endpoint), transactionId);
    case "username":
    case "realm":
    case "nonce":
    case "software":
      return utf8(attribute.text);
    case "message-integrity":
    case "message-integrity-sha256":
      return attribute.mac;
    case "fingerprint":
      return new ByteWriter().u32((attribute.crc ^ FINGERPRINT_XOR) >>> 0).finish();
    case "error-code":
      return new ByteWriter()
        .u16(0)
        .u8(Math.floor(attribute.code / 100))
        .u8(attribute.code % 100)
        .bytes(utf8(attribute.reason))
        .finish();
    case "unknown-attributes": {
      const writer = new ByteWriter();
      for (const type of attribute.types) writer.u16(type);
      return writer.finish();
    }
    case "priority":
      return new ByteWriter().u32(attribute.priority).finish();
    case "use-candidate":
      return new Uint8Array(0);
    case "padding":
      return new Uint8Array(attribute.lengthBytes);
    case "response-port":
      return new ByteWriter().u16(attribute.port).u16(0).finish();
    case "unknown":
      return attribute.value;
  }
}

function addressValue(endpoint: Endpoint): Uint8Array {
  return new ByteWriter()
    .u8(0)
    .u8(familyOf(endpoint.address) === 4 ? 1 : 2)
    .u16(endpoint.port)
    .bytes(ipBytes(endpoint.address))
    .finish();
}
