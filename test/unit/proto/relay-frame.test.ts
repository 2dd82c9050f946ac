import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { concatBytes } from "../../../src/base/bytes.ts";
import {
  countWireGuardPackets,
  FrameBuilder,
  framePackets,
  frameSession,
  MOST_FRAME_BYTES,
} from "../../../src/proto/relay-frame.ts";
import { MOST_PACKET_BYTES } from "../../../src/proto/wireguard-packet.ts";
import { hex } from "../support/keys.ts";
import { everyTruncation, noise } from "../support/noise.ts";
import { check } from "../support/property.ts";

const packet = (type: number, length: number, fill = 0xaa): Uint8Array => {
  const bytes = new Uint8Array(length).fill(fill);
  bytes.set([type, 0, 0, 0]);
  return bytes;
};
const INITIATION = packet(1, 148);
const KEEPALIVE = packet(4, 32);

function frameOf(session: number, packets: readonly Uint8Array[]): Uint8Array {
  const builder = new FrameBuilder();
  for (const one of packets) if (!builder.add(one)) throw new Error("Cannot test: the packets do not fit.");
  return builder.take(session).slice();
}

const anyPacket = fc.oneof(
  fc.constantFrom(INITIATION, packet(2, 92), packet(3, 64), KEEPALIVE),
  fc.integer({ min: 32, max: MOST_PACKET_BYTES }).map((length) => packet(4, length)),
);
const anySession = fc.integer({ min: 1, max: 0xffff_ffff });

describe("golden bytes", () => {
  const golden = hex(`01 89abcdef 0020 04000000 ${"aa".repeat(28)} 0094 01000000 ${"aa".repeat(144)}`);

  test("FrameBuilder.take() writes type, session and the packets with their lengths", () => {
    expect(frameOf(0x89abcdef, [KEEPALIVE, INITIATION]).toHex()).toBe(golden.toHex());
  });

  test("frameSession(), countWireGuardPackets() and framePackets() read the same", () => {
    expect(frameSession(golden)).toBe(0x89abcdef);
    expect(countWireGuardPackets(golden)).toBe(2);
    expect(framePackets(golden)).toEqual([KEEPALIVE, INITIATION]);
  });

  test("frameSession() reads sessions from the first to the last as positive numbers", () => {
    for (const session of [1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
      expect(frameSession(frameOf(session, [KEEPALIVE]))).toBe(session);
    }
  });
});

describe("FrameBuilder", () => {
  test("FrameBuilder starts anew after take()", () => {
    const builder = new FrameBuilder();
    builder.add(INITIATION);
    expect(builder.packets).toBe(1);
    const first = builder.take(1).slice();
    expect(builder.packets).toBe(0);
    builder.add(KEEPALIVE);
    expect(framePackets(builder.take(2))).toEqual([KEEPALIVE]);
    expect(framePackets(first)).toEqual([INITIATION]);
  });

  test("FrameBuilder.add() refuses a packet that does not fit, and keeps what it has", () => {
    const builder = new FrameBuilder();
    const large = packet(4, MOST_PACKET_BYTES);
    let added = 0;
    while (builder.add(large)) added++;
    expect(added).toBe(Math.floor((MOST_FRAME_BYTES - 5) / (2 + MOST_PACKET_BYTES)));
    const frame = builder.take(9);
    expect(frame.length).toBeLessThanOrEqual(MOST_FRAME_BYTES);
    expect(countWireGuardPackets(frame)).toBe(added);
  });

  test("FrameBuilder.add() fills a frame to its last byte", () => {
    const builder = new FrameBuilder();
    let left = MOST_FRAME_BYTES - 5;
    while (left > 2 * (2 + MOST_PACKET_BYTES)) {
      builder.add(packet(4, MOST_PACKET_BYTES));
      left -= 2 + MOST_PACKET_BYTES;
    }
    const half = Math.floor(left / 2);
    expect(builder.add(packet(4, half - 2))).toBe(true);
    expect(builder.add(packet(4, left - half - 1))).toBe(false); // one byte too many
    expect(builder.add(packet(4, left - half - 2))).toBe(true);
    const frame = builder.take(1);
    expect([frame.length, frameSession(frame)]).toEqual([MOST_FRAME_BYTES, 1]);
  });

  test("FrameBuilder.add() never takes a packet over 2 048 bytes", () => {
    expect(new FrameBuilder().add(packet(4, MOST_PACKET_BYTES + 1))).toBe(false);
  });
});

describe("properties", () => {
  test("framePackets() gives back whatever FrameBuilder collected", () => {
    check(
      fc.property(anySession, fc.array(anyPacket, { minLength: 1, maxLength: 20 }), (session, packets) => {
        const frame = frameOf(session, packets);
        expect(frameSession(frame)).toBe(session);
        expect(countWireGuardPackets(frame)).toBe(packets.length);
        expect(framePackets(frame)).toEqual(packets);
      }),
    );
  });

  test("countWireGuardPackets() accepts of any bytes only what FrameBuilder would make, and nothing throws", () => {
    const sound = frameOf(7, [KEEPALIVE, INITIATION, packet(4, 48)]);
    check(
      fc.property(noise(sound, 400), (bytes) => {
        const session = frameSession(bytes);
        const count = countWireGuardPackets(bytes);
        const packets = framePackets(bytes);
        if (session < 0 || count < 0) return;
        expect(packets.length).toBe(count);
        expect(frameOf(session, packets)).toEqual(bytes);
      }),
    );
  });
});

describe("refusal", () => {
  test("countWireGuardPackets() refuses every truncation, unless a packet ends there", () => {
    const frame = frameOf(7, [KEEPALIVE, INITIATION]);
    for (const cut of everyTruncation(frame)) {
      const expected = cut.length === 5 + 2 + KEEPALIVE.length ? 1 : -1;
      expect({ length: cut.length, count: countWireGuardPackets(cut) }).toEqual({
        length: cut.length,
        count: expected,
      });
      expect(frameSession(cut)).toBe(cut.length <= 5 ? -1 : 7);
    }
  });

  test("frameSession() refuses another type, an empty frame and one that is too large", () => {
    const frame = frameOf(7, [KEEPALIVE]);
    expect(frameSession(frame.with(0, 0))).toBe(-1);
    expect(frameSession(frame.with(0, 2))).toBe(-1);
    expect(frameSession(new FrameBuilder().take(7))).toBe(-1);
    expect(frameSession(concatBytes(frame, new Uint8Array(MOST_FRAME_BYTES)))).toBe(-1);
  });

  test("countWireGuardPackets() refuses a frame with one packet that does not look like WireGuard", () => {
    const head = hex("01 00000007 0020").toHex() + KEEPALIVE.toHex();
    for (const other of [
      `0020 05000000 ${"aa".repeat(28)}`,
      "0000",
      "0001 04",
      `001f 04000000 ${"aa".repeat(27)}`,
      "0000 0000",
    ]) {
      expect({ other, count: countWireGuardPackets(hex(head + other)) }).toEqual({ other, count: -1 });
    }
    const jumbo = concatBytes(hex("01 00000007 0801"), packet(4, MOST_PACKET_BYTES + 1));
    expect(countWireGuardPackets(jumbo)).toBe(-1);
  });
});
