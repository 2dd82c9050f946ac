// Sends many datagrams by a connected socket in few system calls: runs of one size as one buffer, which the kernel takes apart again.
//
// On loopback it is never taken apart when the reader is a wireguard-go that asks for whole batches (UDP_GRO), and that is most of
// what a relayed packet costs at the receiving end. Any other reader gets single datagrams (udp(7), UDP_SEGMENT).
import { fdOf, type SetOption, socketOptions, UDP_SEGMENT } from "./udp-options.ts";

/** A connected socket. */
export interface UdpSender {
  send(packet: Uint8Array): boolean;
  sendMany(packets: readonly Uint8Array[]): number;
}

export interface Destination {
  readonly port: number;
  readonly address: string;
}

/** A socket that is not connected; `sendMany` takes triples of data, port and address. */
export interface UdpAddressedSender {
  send(packet: Uint8Array, port: number, address: string): boolean;
  sendMany(triples: (Uint8Array | number | string)[]): number;
}

/** The kernel's limit (UDP_MAX_SEGMENTS, linux/udp.h), as it was before it was raised to 128. */
const MOST_SEGMENTS = 64;
/** Largest payload of one UDP datagram over IPv4. */
const MOST_BYTES = 65_507;

/** Sends all, in order; gives how many the kernel took. The bytes are copied before it returns. */
export type SendBatch = (packets: readonly Uint8Array[]) => number;

/** `socket` must be connected, and nobody else may send by it packets of more than one size. */
export async function batchSender(socket: UdpSender): Promise<SendBatch> {
  const segments = await Segments.of(socket);
  const wire: Wire = { one: (packet) => socket.send(packet), each: (packets) => socket.sendMany(packets) };
  return (packets) => (segments === null ? wire.each(packets) : segments.sendAll(packets, wire));
}

export interface AddressedBatches {
  /** As `SendBatch`, to one destination. Nothing is thrown: what the kernel refuses counts as not taken. */
  sendAll(packets: readonly Uint8Array[], to: Destination): number;
  send(packet: Uint8Array, to: Destination): boolean;
}

/** Everything that leaves by the socket must leave by this. It is slow until the C library is found, some moments after the first use. */
export function addressedBatches(socket: UdpAddressedSender): AddressedBatches {
  let segments: Segments | null = null;
  void Segments.of(socket).then((found) => {
    segments = found;
  });
  const wireTo = ({ port, address }: Destination): Wire => ({
    one: (packet) => socket.send(packet, port, address),
    each: (packets) => socket.sendMany(packets.flatMap((packet) => [packet, port, address])),
  });
  return {
    sendAll(packets, to) {
      const wire = wireTo(to);
      try {
        return segments === null ? wire.each(packets) : segments.sendAll(packets, wire);
      } catch {
        return 0; // no route to it, or larger than the interface takes
      }
    },
    send(packet, to) {
      return this.sendAll([packet], to) === 1;
    },
  };
}

/** How a socket sends to one place. */
interface Wire {
  one(packet: Uint8Array): boolean;
  each(packets: readonly Uint8Array[]): number;
}

/** The option of one socket by which the kernel takes a long datagram apart. */
class Segments {
  readonly #set: SetOption;
  readonly #fd: number;
  readonly #buffer = new Uint8Array(MOST_BYTES);
  #size = 0;
  #works = true;

  private constructor(set: SetOption, fd: number) {
    this.#set = set;
    this.#fd = fd;
  }

  /** Null where there is no such option. */
  static async of(socket: object): Promise<Segments | null> {
    const set = await socketOptions();
    const fd = fdOf(socket);
    return set === null || fd === null || !set(fd, UDP_SEGMENT, 0) ? null : new Segments(set, fd);
  }

  sendAll(packets: readonly Uint8Array[], wire: Wire): number {
    if (!this.#works) return wire.each(packets);
    let sent = 0;
    for (let from = 0; from < packets.length; ) {
      const count = runLength(packets, from);
      let taken = -1;
      try {
        taken = this.#sendRun(packets, { from, count }, wire);
      } catch {
        // EIO or EINVAL: a device on the way cannot do it; or there is no way, and that is thrown again below
      }
      if (taken < 0) {
        this.#set(this.#fd, UDP_SEGMENT, 0);
        this.#size = 0;
        sent += wire.each(packets.slice(from));
        this.#works = false; // since without it they went
        return sent;
      }
      sent += taken;
      from += count;
    }
    return sent;
  }

  /** Negative when the kernel does not do it, and then nothing of the run was sent. */
  #sendRun(packets: readonly Uint8Array[], run: Run, wire: Wire): number {
    const first = packets[run.from];
    if (first === undefined) return 0;
    if (run.count === 1 && (this.#size === 0 || first.length <= this.#size)) return wire.one(first) ? 1 : 0;
    if (!this.#prepare(run.count === 1 ? 0 : first.length)) return -1;
    if (run.count === 1) return wire.one(first) ? 1 : 0;
    let length = 0;
    for (let i = run.from; i < run.from + run.count; i++) {
      const packet = packets[i];
      if (packet === undefined) break;
      this.#buffer.set(packet, length);
      length += packet.length;
    }
    return wire.one(this.#buffer.subarray(0, length)) ? run.count : 0;
  }

  #prepare(size: number): boolean {
    if (this.#size === size) return true;
    if (!this.#set(this.#fd, UDP_SEGMENT, size)) return false;
    this.#size = size;
    return true;
  }
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
