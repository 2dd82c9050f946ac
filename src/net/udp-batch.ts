// Sends many datagrams by a connected socket in few system calls: runs of one size as one buffer, which the kernel takes apart again.
//
// On loopback it is never taken apart when the reader is a wireguard-go that asks for whole batches (UDP_GRO), and that is most of
// what a relayed packet costs at the receiving end. Any other reader gets single datagrams (udp(7), UDP_SEGMENT).
import { fdOf, socketOptions, UDP_SEGMENT } from "./udp-options.ts";

export interface UdpSender {
  send(packet: Uint8Array): boolean;
  sendMany(packets: readonly Uint8Array[]): number;
}

/** The kernel's limit (UDP_MAX_SEGMENTS, linux/udp.h), as it was before it was raised to 128. */
const MOST_SEGMENTS = 64;
/** Largest payload of one UDP datagram over IPv4. */
const MOST_BYTES = 65_507;

/** Sends all, in order; gives how many the kernel took. The bytes are copied before it returns. */
export type SendBatch = (packets: readonly Uint8Array[]) => number;

/** `socket` must be connected, and nobody else may send by it packets of more than one size. */
export async function batchSender(socket: UdpSender): Promise<SendBatch> {
  const set = await socketOptions();
  const fd = fdOf(socket);
  if (set === null || fd === null || !set(fd, UDP_SEGMENT, 0)) return (packets) => socket.sendMany(packets);
  const buffer = new Uint8Array(MOST_BYTES);
  let segment = 0;
  let works = true;

  /** False when the kernel does not do it, and then nothing of the run was sent. */
  function prepare(size: number): boolean {
    if (segment === size) return true;
    if (!set?.(fd ?? -1, UDP_SEGMENT, size)) return false;
    segment = size;
    return true;
  }

  function sendRun(packets: readonly Uint8Array[], run: Run): number {
    const first = packets[run.from];
    if (first === undefined) return 0;
    if (run.count === 1 && (segment === 0 || first.length <= segment)) return socket.send(first) ? 1 : 0;
    if (!prepare(run.count === 1 ? 0 : first.length)) return -1;
    let length = 0;
    for (let i = run.from; i < run.from + run.count; i++) {
      const packet = packets[i];
      if (packet === undefined) break;
      buffer.set(packet, length);
      length += packet.length;
    }
    return socket.send(buffer.subarray(0, length)) ? run.count : 0;
  }

  return (packets) => {
    let sent = 0;
    for (let from = 0; from < packets.length && works; ) {
      const count = runLength(packets, from);
      try {
        const taken = sendRun(packets, { from, count });
        if (taken < 0) works = false;
        else sent += taken;
      } catch {
        works = false; // EIO or EINVAL: a device on the way cannot do it
      }
      if (!works) {
        set(fd, UDP_SEGMENT, 0);
        return sent + socket.sendMany(packets.slice(from));
      }
      from += count;
    }
    return works ? sent : socket.sendMany(packets);
  };
}

interface Run {
  readonly from: number;
  readonly count: number;
}

/** How many packets from there on may leave as one: all of one size, the last one shorter if it likes. */
export function runLength(packets: readonly Uint8Array[], from: number): number {
  const size = packets[from]?.length ?? 0;
  let bytes = size;
  let count = 1;
  while (from + count < packets.length && count < MOST_SEGMENTS) {
    const next = packets[from + count]?.length ?? 0;
    if (next > size || next === 0 || bytes + next > MOST_BYTES) break;
    bytes += next;
    count++;
    if (next < size) break;
  }
  return count;
}
