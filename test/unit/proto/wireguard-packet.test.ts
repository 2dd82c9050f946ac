import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { looksLikeWireGuard, MOST_PACKET_BYTES } from "../../../src/proto/wireguard-packet.ts";
import { check } from "../support/property.ts";

const whole = (bytes: Uint8Array): boolean => looksLikeWireGuard(bytes, 0, bytes.length);
const packet = (type: number, length: number): Uint8Array => new Uint8Array(length).with(0, type);

describe("looksLikeWireGuard()", () => {
  test("looksLikeWireGuard() accepts the four messages at their sizes", () => {
    expect([packet(1, 148), packet(2, 92), packet(3, 64), packet(4, 32), packet(4, 1452)].map(whole)).toEqual(
      Array.from({ length: 5 }, () => true),
    );
  });

  test("MOST_PACKET_BYTES is what the wire format says", () => {
    expect(MOST_PACKET_BYTES).toBe(2048);
  });

  test("looksLikeWireGuard() accepts each length for just those types that have it", () => {
    for (let length = 1; length <= MOST_PACKET_BYTES + 40; length++) {
      const accepted = [0, 1, 2, 3, 4, 5, 255].filter((type) => whole(packet(type, length)));
      const expected: number[] = [];
      if (length === 148) expected.push(1);
      if (length === 92) expected.push(2);
      if (length === 64) expected.push(3);
      if (length >= 32 && length <= MOST_PACKET_BYTES) expected.push(4);
      expect({ length, accepted }).toEqual({ length, accepted: expected });
    }
  });

  test("looksLikeWireGuard() refuses what has something in the reserved bytes, such as STUN and DNS", () => {
    for (const at of [1, 2, 3])
      for (const bits of [1, 0x80, 0xff]) expect(whole(packet(4, 64).with(at, bits))).toBe(false);
    const stun = Uint8Array.fromHex("010100182112a442").toHex().padEnd(128, "0");
    expect(whole(Uint8Array.fromHex(stun))).toBe(false);
  });

  test("looksLikeWireGuard() looks only at its own part of a larger buffer, and refuses a part beyond the end", () => {
    const buffer = new Uint8Array(100).fill(0xff);
    buffer.set(packet(4, 32), 50);
    expect(looksLikeWireGuard(buffer, 50, 32)).toBe(true);
    expect(looksLikeWireGuard(buffer, 50, 51)).toBe(false);
    expect(looksLikeWireGuard(buffer, 49, 32)).toBe(false);
    expect(looksLikeWireGuard(buffer, 100, 32)).toBe(false);
    expect(looksLikeWireGuard(buffer, 50, 0)).toBe(false);
  });

  test("looksLikeWireGuard() says yes or no to any bytes, and never throws", () => {
    check(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(250), fc.nat(250), (bytes, at, length) => {
        const verdict = looksLikeWireGuard(bytes, at, length);
        if (verdict) expect(at + length).toBeLessThanOrEqual(bytes.length);
      }),
    );
  });
});
