// What a WireGuard datagram looks like from outside, without a key.
//
//   | type u8 = 1..4 | reserved 3 = 0 | … |
//   1 handshake initiation: 148 bytes · 2 handshake response: 92 · 3 cookie reply: 64 · 4 transport data: 32 and more
//
// Source: the WireGuard protocol, section 5.4 of its paper ("Messages").

/** Largest datagram that is passed on: a full Ethernet frame with room to spare, never a jumbo. */
export const MOST_PACKET_BYTES = 2048;

/** `bytes[at]` up to `bytes[at + length]`. */
export function looksLikeWireGuard(bytes: Uint8Array, at: number, length: number): boolean {
  if (length < 32 || length > MOST_PACKET_BYTES || at + length > bytes.length) return false;
  if (bytes[at + 1] !== 0 || bytes[at + 2] !== 0 || bytes[at + 3] !== 0) return false;
  switch (bytes[at]) {
    case 4:
      return true;
    case 1:
      return length === 148;
    case 2:
      return length === 92;
    case 3:
      return length === 64;
    default:
      return false;
  }
}

/** The one message whose loss costs five seconds: until WireGuard sends it again (Rekey-Timeout, section 6.1 of its paper). */
export function isInitiation(packet: Uint8Array): boolean {
  return packet[0] === 1 && looksLikeWireGuard(packet, 0, packet.length);
}
