import { describe, expect, test } from "bun:test";
import { md5 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { utf8 } from "../../../src/base/bytes.ts";
import type { IpAddress } from "../../../src/base/ip.ts";
import { checkFingerprint, checkIntegrity, decodeStun } from "../../../src/proto/stun.ts";
import { hex } from "../support/keys.ts";
import { everyByteChanged } from "../support/noise.ts";
import {
  PASSWORD,
  SAMPLE_REQUEST,
  SAMPLE_IPV4_RESPONSE,
  SAMPLE_IPV6_RESPONSE,
  SAMPLE_LONG_TERM_REQUEST,
  SAMPLE_SHA256_REQUEST,
  LONG_TERM,
} from "../support/stun-samples.ts";

describe("RFC 5769 vectors", () => {
  test("decodeStun() reads the sample request", () => {
    expect(decodeStun(SAMPLE_REQUEST)).toEqual({
      class: "request",
      method: 1,
      transactionId: hex("b7e7a701 bc34d686 fa87dfae"),
      attributes: [
        { type: "software", text: "STUN test client" },
        { type: "priority", priority: 0x6e0001ff },
        { type: "unknown", code: 0x8029, value: hex("932ff9b151263b36") },
        { type: "username", text: "evtj:h6vY" },
        { type: "message-integrity", mac: hex("9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2") },
        { type: "fingerprint", crc: (0xe57a3bcf ^ 0x5354554e) >>> 0 },
      ],
    });
  });

  test("decodeStun() reads the sample IPv4 response", () => {
    expect(decodeStun(SAMPLE_IPV4_RESPONSE)?.attributes.slice(0, 2)).toEqual([
      { type: "software", text: "test vector" },
      { type: "xor-mapped-address", endpoint: { address: "192.0.2.1" as IpAddress, port: 32853 } },
    ]);
  });

  test("decodeStun() reads the sample IPv6 response", () => {
    expect(decodeStun(SAMPLE_IPV6_RESPONSE)?.attributes[1]).toEqual({
      type: "xor-mapped-address",
      endpoint: { address: "2001:db8:1234:5678:11:2233:4455:6677" as IpAddress, port: 32853 },
    });
  });

  test("decodeStun() reads the sample request with long-term authentication", () => {
    expect(decodeStun(SAMPLE_LONG_TERM_REQUEST)?.attributes.slice(0, 3)).toEqual([
      { type: "username", text: "マトリックス" },
      { type: "nonce", text: "f//499k954d6OL34oL9FSTvy64sA" },
      { type: "realm", text: "example.org" },
    ]);
  });

  test("checkIntegrity() accepts every sample under its own key and no other", () => {
    const samples = [
      { bytes: SAMPLE_REQUEST, key: PASSWORD },
      { bytes: SAMPLE_IPV4_RESPONSE, key: PASSWORD },
      { bytes: SAMPLE_IPV6_RESPONSE, key: PASSWORD },
      { bytes: SAMPLE_LONG_TERM_REQUEST, key: md5(LONG_TERM) },
      { bytes: SAMPLE_SHA256_REQUEST, key: sha256(LONG_TERM) },
    ];
    for (const { bytes, key } of samples) {
      expect(checkIntegrity(bytes, key)).toBe(true);
      expect(checkIntegrity(bytes, utf8("another key"))).toBe(false);
    }
  });

  test("checkFingerprint() accepts the samples that have one", () => {
    expect([SAMPLE_REQUEST, SAMPLE_IPV4_RESPONSE, SAMPLE_IPV6_RESPONSE].map(checkFingerprint)).toEqual([
      true,
      true,
      true,
    ]);
    expect([SAMPLE_LONG_TERM_REQUEST, SAMPLE_SHA256_REQUEST].map(checkFingerprint)).toEqual([false, false]);
  });

  test("checkIntegrity() and checkFingerprint() refuse each sample with any one byte changed", () => {
    for (const bytes of [SAMPLE_REQUEST, SAMPLE_IPV4_RESPONSE, SAMPLE_IPV6_RESPONSE]) {
      const end = bytes.length - 8; // integrity does not cover FINGERPRINT
      for (const [at, changed] of everyByteChanged(bytes, 0x01).entries()) {
        expect(checkFingerprint(changed)).toBe(false);
        if (at < end) expect(checkIntegrity(changed, PASSWORD)).toBe(false);
      }
    }
  });
});
