// Relay frames: WireGuard datagrams of one session, batched into one binary WebSocket message.
//
//   | type u8 = 1 | session u32 | packets: (length u16, bytes)+ |          at most 65 536 bytes in all
//
// All numbers big-endian. A session id means something only on the connection that it was granted to,
// and both ends of a session use the same id, so the server passes a frame on as it is.
import { looksLikeWireGuard, MOST_PACKET_BYTES } from "./wireguard-packet.ts";

export const MOST_FRAME_BYTES = 65_536;
const DATA = 1;
const HEADER_BYTES = 5;

/** Collects the packets of one session in one buffer; `take` gives the frame and starts the next. */
export class FrameBuilder {
  readonly #buffer = new Uint8Array(MOST_FRAME_BYTES);
  #length = HEADER_BYTES;
  #packets = 0;

  get packets(): number {
    return this.#packets;
  }

  /** False when the packet does not fit any more: take the frame first. A packet over 2 048 bytes never fits. */
  add(packet: Uint8Array): boolean {
    const end = this.#length + 2 + packet.length;
    if (end > MOST_FRAME_BYTES || packet.length > MOST_PACKET_BYTES) return false;
    this.#buffer[this.#length] = packet.length >>> 8;
    this.#buffer[this.#length + 1] = packet.length & 0xff;
    this.#buffer.set(packet, this.#length + 2);
    this.#length = end;
    this.#packets++;
    return true;
  }

  /** A view into the builder's buffer, valid until the next `add`. */
  take(session: number): Uint8Array {
    this.#buffer[0] = DATA;
    this.#buffer[1] = session >>> 24;
    this.#buffer[2] = (session >>> 16) & 0xff;
    this.#buffer[3] = (session >>> 8) & 0xff;
    this.#buffer[4] = session & 0xff;
    const frame = this.#buffer.subarray(0, this.#length);
    this.#length = HEADER_BYTES;
    this.#packets = 0;
    return frame;
  }
}

/** The session that a frame names, or -1 for what is no data frame. */
export function frameSession(frame: Uint8Array): number {
  if (frame.length <= HEADER_BYTES || frame.length > MOST_FRAME_BYTES || frame[0] !== DATA) return -1;
  return (frame[1] ?? 0) * 0x100_0000 + (((frame[2] ?? 0) << 16) | ((frame[3] ?? 0) << 8) | (frame[4] ?? 0));
}

/** How many packets a data frame holds, if every one looks like WireGuard and the lengths add up; else -1. */
export function countWireGuardPackets(frame: Uint8Array): number {
  let at = HEADER_BYTES;
  let packets = 0;
  while (at < frame.length) {
    if (at + 2 > frame.length) return -1;
    const length = ((frame[at] ?? 0) << 8) | (frame[at + 1] ?? 0);
    if (!looksLikeWireGuard(frame, at + 2, length)) return -1;
    at += 2 + length;
    packets++;
  }
  return packets === 0 ? -1 : packets;
}

/** The packets of a frame that `countWireGuardPackets` found sound, as views. */
export function framePackets(frame: Uint8Array): Uint8Array[] {
  const packets: Uint8Array[] = [];
  let at = HEADER_BYTES;
  while (at + 2 <= frame.length) {
    const length = ((frame[at] ?? 0) << 8) | (frame[at + 1] ?? 0);
    packets.push(frame.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return packets;
}
