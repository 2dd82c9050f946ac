import { describe, expect, test } from "bun:test";
import { createPrivateKey, sign as nodeSign } from "node:crypto";
import { x25519 } from "@noble/curves/ed25519.js";
import fc from "fast-check";
import { fromBase64, toBase64, toBase64Url } from "../../../src/base/bytes.ts";
import {
  type IdentityKey,
  identityKeyBytes,
  identityKeyFromBytes,
  identityKeyOf,
  newIdentity,
  newWireGuardSecret,
  parseIdentityKey,
  parseSignature,
  parseWireGuardKey,
  type Signature,
  type SignatureContext,
  sign,
  verify,
  wireGuardKeyOf,
} from "../../../src/proto/keys.ts";
import {
  hex,
  MACHINE_HEX,
  MACHINE_KEY,
  MACHINE_SECRET,
  NETWORK_HEX,
  NETWORK_KEY,
  NETWORK_SECRET,
  STRANGER_KEY,
  STRANGER_SECRET,
  WIREGUARD_HEX,
  WIREGUARD_KEY,
  WIREGUARD_SECRET,
} from "../support/keys.ts";
import { everyByteChanged, everyTruncation } from "../support/noise.ts";
import { check } from "../support/property.ts";

const CONTEXTS: readonly SignatureContext[] = [
  "higgs server proof v1",
  "higgs machine proof v1",
  "higgs enrolment v1",
  "higgs machine record v1",
];

/** RFC 8032 PKCS #8 prefix of a raw Ed25519 seed (RFC 8410 section 7). */
const PKCS8 = hex("302e020100300506032b657004220420");

/** The eight points of small order, each as RFC 8032 encodes it. */
const SMALL_ORDER_POINTS = [
  "0100000000000000000000000000000000000000000000000000000000000000",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0000000000000000000000000000000000000000000000000000000000000080",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
];
/** The same points, and y = 3, in encodings that RFC 8032 forbids. */
const NON_CANONICAL_POINTS = [
  "0100000000000000000000000000000000000000000000000000000000000080",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
  "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

describe("identity keys", () => {
  test("identityKeyOf() gives the RFC's public keys", () => {
    expect(identityKeyOf(NETWORK_SECRET)).toBe(NETWORK_KEY);
    expect(identityKeyOf(MACHINE_SECRET)).toBe(MACHINE_KEY);
    expect(identityKeyOf(STRANGER_SECRET)).toBe(STRANGER_KEY);
    expect(identityKeyBytes(NETWORK_KEY).toHex()).toBe(NETWORK_HEX);
    expect(identityKeyFromBytes(hex(MACHINE_HEX))).toBe(MACHINE_KEY);
  });

  test("parseIdentityKey() refuses points of small order, which would verify anything", () => {
    for (const point of SMALL_ORDER_POINTS) {
      expect({ point, key: identityKeyFromBytes(hex(point)) }).toEqual({ point, key: null });
    }
  });

  test("parseIdentityKey() refuses encodings that are not canonical", () => {
    for (const point of NON_CANONICAL_POINTS) {
      expect({ point, key: identityKeyFromBytes(hex(point)) }).toEqual({ point, key: null });
    }
  });

  test("parseIdentityKey() refuses every truncation, every other spelling, and bytes that are no point", () => {
    for (const cut of everyTruncation(hex(NETWORK_HEX))) expect(identityKeyFromBytes(cut)).toBeNull();
    for (const text of [`${NETWORK_KEY}=`, ` ${NETWORK_KEY}`, `${NETWORK_KEY}\n`, "", toBase64(hex(NETWORK_HEX))]) {
      expect(parseIdentityKey(text)).toBeNull();
    }
    expect(identityKeyFromBytes(hex(`02${"00".repeat(31)}`))).toBeNull(); // y = 2 has no x
  });

  test("identityKeyFromBytes() gives for any 32 bytes null or the key of just these bytes", () => {
    check(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (bytes) => {
        const key = identityKeyFromBytes(bytes);
        if (key !== null) expect(identityKeyBytes(key)).toEqual(bytes);
      }),
    );
  });

  test("newIdentity() makes another identity each time", () => {
    const keys = new Set(Array.from({ length: 20 }, () => identityKeyOf(newIdentity())));
    expect(keys.size).toBe(20);
    for (const key of keys) expect(parseIdentityKey(key)).toBe(key);
  });
});

describe("signatures", () => {
  const message = hex("0102030405");

  test("sign() is Ed25519 over context, zero byte and message", () => {
    const key = createPrivateKey({ key: Buffer.concat([PKCS8, MACHINE_SECRET]), format: "der", type: "pkcs8" });
    for (const context of CONTEXTS) {
      const signed = Buffer.concat([Buffer.from(context), Buffer.of(0), message]);
      expect(sign(context, message, MACHINE_SECRET)).toBe(
        nodeSign(null, signed, key).toString("base64url") as Signature,
      );
    }
  });

  test("verify() accepts a signature in its own context and in no other", () => {
    for (const made of CONTEXTS) {
      const signature = sign(made, message, MACHINE_SECRET);
      for (const asked of CONTEXTS) {
        const verdict = verify(asked, message, { key: MACHINE_KEY, signature });
        expect({ made, asked, verdict }).toEqual({ made, asked, verdict: made === asked });
      }
    }
  });

  test("verify() refuses another key, another message and a signature with one byte changed", () => {
    const context = "higgs machine record v1";
    const signature = sign(context, message, MACHINE_SECRET);
    expect(verify(context, message, { key: STRANGER_KEY, signature })).toBe(false);
    expect(verify(context, hex("0102030406"), { key: MACHINE_KEY, signature })).toBe(false);
    for (const changed of everyByteChanged(Buffer.from(signature, "base64url"), 0x20)) {
      expect(verify(context, message, { key: MACHINE_KEY, signature: toBase64Url(changed) as Signature })).toBe(false);
    }
  });

  test("verify() refuses the forgery that every key of small order would accept", () => {
    // R is the identity, s is zero: s·B = R + h·A holds for whatever message when A has small order.
    const signature = toBase64Url(hex(`01${"00".repeat(63)}`)) as Signature;
    for (const point of SMALL_ORDER_POINTS) {
      const key = toBase64Url(hex(point)) as IdentityKey;
      expect(verify("higgs server proof v1", message, { key, signature })).toBe(false);
    }
  });

  test("verify() refuses a second signature made by adding the group's order to s (RFC 8032 section 5.1.7)", () => {
    const context = "higgs machine proof v1";
    const bytes = Buffer.from(sign(context, message, MACHINE_SECRET), "base64url");
    const order = 2n ** 252n + 27_742_317_777_372_353_535_851_937_790_883_648_493n;
    let s = order;
    for (let at = 0; at < 32; at++) s += BigInt(bytes[32 + at] ?? 0) << BigInt(8 * at);
    for (let at = 0; at < 32; at++) bytes[32 + at] = Number((s >> BigInt(8 * at)) & 0xffn);
    expect(verify(context, message, { key: MACHINE_KEY, signature: toBase64Url(bytes) as Signature })).toBe(false);
  });

  test("verify() returns false for whatever is no key or no signature, and never throws", () => {
    const text = fc.oneof(fc.string(), fc.uint8Array({ minLength: 64, maxLength: 64 }).map(toBase64Url));
    const key = fc.oneof(
      fc.string(),
      fc.constant<string>(MACHINE_KEY),
      fc.uint8Array({ minLength: 32, maxLength: 32 }).map(toBase64Url),
    );
    check(
      fc.property(key, text, (anyKey, signature) => {
        const by = { key: anyKey as IdentityKey, signature: signature as Signature };
        expect(verify("higgs enrolment v1", message, by)).toBe(false);
      }),
    );
  });

  test("parseSignature() accepts 64 bytes in base64url and nothing else", () => {
    const signature = sign("higgs enrolment v1", message, MACHINE_SECRET);
    expect(parseSignature(signature)).toBe(signature);
    for (const text of ["", signature.slice(1), `${signature}A`, `${signature}=`, ` ${signature}`]) {
      expect(parseSignature(text)).toBeNull();
    }
  });
});

describe("WireGuard keys", () => {
  test("wireGuardKeyOf() gives the RFC's public key", () => {
    expect(wireGuardKeyOf(WIREGUARD_SECRET)).toBe(WIREGUARD_KEY);
    expect(fromBase64(WIREGUARD_KEY)?.toHex()).toBe(WIREGUARD_HEX);
    expect(parseWireGuardKey(WIREGUARD_KEY)).toBe(WIREGUARD_KEY);
  });

  test("newWireGuardSecret() makes another clamped secret each time", () => {
    const secrets = Array.from({ length: 20 }, newWireGuardSecret);
    expect(new Set(secrets).size).toBe(20);
    for (const secret of secrets) {
      const bytes = fromBase64(secret) ?? new Uint8Array(0);
      expect([bytes.length, (bytes[0] ?? 0) & 7, (bytes[31] ?? 0) & 0xc0]).toEqual([32, 0, 0x40]);
      expect(parseWireGuardKey(wireGuardKeyOf(secret))).not.toBeNull();
    }
  });

  test("parseWireGuardKey() refuses keys of small order, with which every shared secret is zero", () => {
    const secret = fromBase64(WIREGUARD_SECRET) ?? new Uint8Array(32);
    const points = [
      "0000000000000000000000000000000000000000000000000000000000000000",
      "0100000000000000000000000000000000000000000000000000000000000000",
      "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
      "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
      "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
      "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
      "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for (const point of points) {
      expect(() => x25519.getSharedSecret(secret, hex(point))).toThrow(); // that it is one
      expect({ point, key: parseWireGuardKey(toBase64(hex(point))) }).toEqual({ point, key: null });
    }
  });

  test("parseWireGuardKey() refuses the second spellings of a key, which X25519 takes for the first", () => {
    const secret = fromBase64(WIREGUARD_SECRET) ?? new Uint8Array(32);
    const key = hex(WIREGUARD_HEX);
    const other = key.with(31, (key[31] ?? 0) | 0x80);
    expect(x25519.getSharedSecret(secret, other)).toEqual(x25519.getSharedSecret(secret, key));
    expect(parseWireGuardKey(toBase64(other))).toBeNull();
    expect(parseWireGuardKey(toBase64(hex(`f0${"ff".repeat(30)}7f`)))).toBeNull(); // p + 3
    for (const below of [`eb${"ff".repeat(30)}7f`, `edfe${"ff".repeat(29)}7f`, `ff00${"ff".repeat(29)}7f`]) {
      expect(parseWireGuardKey(toBase64(hex(below)))).not.toBeNull(); // p - 2, and others below p
    }
  });

  test("parseWireGuardKey() refuses every truncation and every other spelling of the text", () => {
    for (const cut of everyTruncation(hex(WIREGUARD_HEX))) expect(parseWireGuardKey(toBase64(cut))).toBeNull();
    for (const text of [
      "",
      WIREGUARD_KEY.slice(0, -1),
      `${WIREGUARD_KEY}\n`,
      `${WIREGUARD_KEY}=`,
      toBase64Url(hex(WIREGUARD_HEX)),
    ]) {
      expect(parseWireGuardKey(text)).toBeNull();
    }
  });
});
