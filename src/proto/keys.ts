// Key types, and Ed25519 signatures that are bound to a context.
import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { concatBytes, fromBase64, fromBase64Url, toBase64, toBase64Url, toHex, utf8 } from "../base/bytes.ts";

/** Ed25519 public key (RFC 8032), base64url without padding, 43 characters. */
export type IdentityKey = string & { readonly __brand: "IdentityKey" };
/** Ed25519 seed, 32 bytes. */
export type IdentitySecret = Uint8Array & { readonly __brand: "IdentitySecret" };
/** Ed25519 signature, base64url without padding, 86 characters. */
export type Signature = string & { readonly __brand: "Signature" };
/** X25519 public key as `wg` prints it: base64 with padding, 44 characters. */
export type WireGuardKey = string & { readonly __brand: "WireGuardKey" };
/** X25519 private key as `wg` takes it: base64 with padding, 44 characters. */
export type WireGuardSecret = string & { readonly __brand: "WireGuardSecret" };
/** SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), base64url without padding. */
export type SpkiHash = string & { readonly __brand: "SpkiHash" };
/** The id that the server gave a machine: a UUID. */
export type MachineId = string & { readonly __brand: "MachineId" };

/** What a signature is for; a signature made for one context says nothing in another. */
export type SignatureContext =
  | "higgs server proof v1"
  | "higgs machine proof v1"
  | "higgs enrolment v1"
  | "higgs machine record v1";

export function parseIdentityKey(text: string): IdentityKey | null {
  const bytes = fromBase64Url(text);
  if (bytes === null || bytes.length !== 32) return null;
  try {
    // Strict decoding (RFC 8032) refuses non-canonical encodings; a point of small order would verify anything.
    const point = ed25519.Point.fromBytes(bytes, false);
    return point.isSmallOrder() ? null : (text as IdentityKey);
  } catch {
    return null; // no point of the curve: the caller names the value
  }
}

/**
 * The canonical u-coordinates of small order on Curve25519, little-endian. With such a key every shared secret is zero,
 * so anybody could speak as its owner.
 */
const SMALL_ORDER = new Set([
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
  "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]);

/** Below 2^255 - 19. X25519 takes larger ones for smaller (RFC 7748 section 5), so one key would have two names. */
function isCanonicalU(bytes: Uint8Array): boolean {
  const last = bytes[31] ?? 0xff;
  return last < 0x7f || (last === 0x7f && !((bytes[0] ?? 0) >= 0xed && bytes.subarray(1, 31).every((b) => b === 0xff)));
}

export function parseWireGuardKey(text: string): WireGuardKey | null {
  const bytes = fromBase64(text);
  if (bytes === null || bytes.length !== 32 || !isCanonicalU(bytes)) return null;
  return SMALL_ORDER.has(toHex(bytes)) ? null : (text as WireGuardKey);
}

export function parseSignature(text: string): Signature | null {
  return fromBase64Url(text)?.length === 64 ? (text as Signature) : null;
}

export function identityKeyBytes(key: IdentityKey): Uint8Array {
  return fromBase64Url(key) ?? new Uint8Array(32);
}

export function identityKeyFromBytes(bytes: Uint8Array): IdentityKey | null {
  return parseIdentityKey(toBase64Url(bytes));
}

export function newIdentity(): IdentitySecret {
  return ed25519.utils.randomSecretKey() as IdentitySecret;
}

export function identityKeyOf(secret: IdentitySecret): IdentityKey {
  return toBase64Url(ed25519.getPublicKey(secret)) as IdentityKey;
}

export function newWireGuardSecret(): WireGuardSecret {
  const bytes = x25519.utils.randomSecretKey();
  // The clamping of RFC 7748 section 5, so that the text is the one that `wg genkey` would have made.
  bytes[0] = (bytes[0] ?? 0) & 248;
  bytes[31] = ((bytes[31] ?? 0) & 127) | 64;
  return toBase64(bytes) as WireGuardSecret;
}

export function wireGuardKeyOf(secret: WireGuardSecret): WireGuardKey {
  return toBase64(x25519.getPublicKey(fromBase64(secret) ?? new Uint8Array(32))) as WireGuardKey;
}

function inContext(context: SignatureContext, message: Uint8Array): Uint8Array {
  return concatBytes(utf8(context), Uint8Array.of(0), message);
}

/** Ed25519 (RFC 8032) over `context || 0x00 || message`. */
export function sign(context: SignatureContext, message: Uint8Array, secret: IdentitySecret): Signature {
  return toBase64Url(ed25519.sign(inContext(context, message), secret)) as Signature;
}

export function verify(
  context: SignatureContext,
  message: Uint8Array,
  by: { readonly key: IdentityKey; readonly signature: Signature },
): boolean {
  const signature = fromBase64Url(by.signature);
  const key = fromBase64Url(by.key);
  if (signature === null || key === null || parseIdentityKey(by.key) === null) return false;
  try {
    return ed25519.verify(signature, inContext(context, message), key, { zip215: false });
  } catch {
    return false; // malformed: not a signature of that key
  }
}
