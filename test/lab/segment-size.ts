// The maximum segment size that a SYN offers (RFC 9293 section 3.2, option kind 2), read from sniffed packets.
import type { Packet } from "../../src/lab/pcap.ts";

const SYN = 0x02;
const END = 0;
const NOTHING = 1;
const SEGMENT_SIZE = 2;

/** Of each SYN and SYN-ACK in IPv4, in the order of their coming; packets of other kinds are left out. */
export function segmentSizes(packets: readonly Packet[]): readonly number[] {
  return packets.flatMap((packet) => {
    const headerBytes = ((packet.ip[0] ?? 0) & 15) * 4;
    const tcp = packet.ip.subarray(headerBytes);
    if ((packet.ip[0] ?? 0) >> 4 !== 4 || packet.ip[9] !== 6 || ((tcp[13] ?? 0) & SYN) === 0) return [];
    return optionOf(tcp.subarray(20, ((tcp[12] ?? 0) >> 4) * 4));
  });
}

function optionOf(options: Uint8Array): readonly number[] {
  for (let at = 0; at < options.length; ) {
    const kind = options[at] ?? END;
    if (kind === END) break;
    if (kind === SEGMENT_SIZE) return [((options[at + 2] ?? 0) << 8) | (options[at + 3] ?? 0)];
    at += kind === NOTHING ? 1 : Math.max(2, options[at + 1] ?? 2);
  }
  return [];
}
