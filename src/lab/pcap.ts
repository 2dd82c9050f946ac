// A pcap stream taken apart, and each packet in one line of text. Pure.
//
//   stream: u32 magic a1b2c3d4 (or a1b23c4d with nanoseconds), u16 2, u16 4, 8 reserved, u32 snaplen, u32 link type; then each packet:
//           u32 seconds, u32 fraction, u32 kept length, u32 length on the wire, kept bytes. Little-endian, as tcpdump writes on our machines.
import { ipFromBytes } from "../base/ip.ts";

export interface Packet {
  readonly timeMs: number;
  /** From the link header on. */
  readonly bytes: Uint8Array;
  /** From the IP header on; empty when it is neither IPv4 nor IPv6. */
  readonly ip: Uint8Array;
  /** "udp 192.168.7.2:4000 > 203.0.113.53:53 length 40", "arp", "icmp6 fe80::1 > ff02::2 type 133". */
  readonly text: string;
}

export interface PcapReader {
  /** Takes any cut of the stream and gives the packets that are complete. */
  push(chunk: Uint8Array): readonly Packet[];
}

const FILE_HEADER_BYTES = 24;
const PACKET_HEADER_BYTES = 16;
const MAGIC_NANOSECONDS = 0xa1b2_3c4d;

export function pcapReader(): PcapReader {
  let rest = new Uint8Array(0);
  let linkType: number | undefined;
  let fractionPerMs = 1000;
  return {
    push(chunk) {
      const all = new Uint8Array(rest.length + chunk.length);
      all.set(rest);
      all.set(chunk, rest.length);
      const view = new DataView(all.buffer);
      let at = 0;
      if (linkType === undefined) {
        if (all.length < FILE_HEADER_BYTES) {
          rest = all;
          return [];
        }
        if (view.getUint32(0, true) === MAGIC_NANOSECONDS) fractionPerMs = 1_000_000;
        linkType = view.getUint32(20, true) & 0xffff;
        at = FILE_HEADER_BYTES;
      }
      const packets: Packet[] = [];
      while (all.length - at >= PACKET_HEADER_BYTES) {
        const kept = view.getUint32(at + 8, true);
        const start = at + PACKET_HEADER_BYTES;
        if (all.length - start < kept) break;
        const timeMs = view.getUint32(at, true) * 1000 + view.getUint32(at + 4, true) / fractionPerMs;
        packets.push(packetOf(all.slice(start, start + kept), { linkType, timeMs }));
        at = start + kept;
      }
      rest = all.slice(at);
      return packets;
    },
  };
}

const LINK_ETHERNET = 1;
const LINK_RAW = 101;
const LINK_COOKED = 113;
const LINK_COOKED_2 = 276;
const ETHERTYPES: Readonly<Record<number, string>> = { 0x0800: "ipv4", 0x86dd: "ipv6", 0x0806: "arp" };

function packetOf(bytes: Uint8Array, from: { readonly linkType: number; readonly timeMs: number }): Packet {
  const { ip, kind } = network(bytes, from.linkType);
  return { timeMs: from.timeMs, bytes, ip, text: ip.length === 0 ? kind : describeIp(ip) };
}

function network(bytes: Uint8Array, linkType: number): { readonly ip: Uint8Array; readonly kind: string } {
  const view = viewOf(bytes);
  const [typeAt, headerBytes] =
    linkType === LINK_ETHERNET
      ? [12, 14]
      : linkType === LINK_COOKED
        ? [14, 16]
        : linkType === LINK_COOKED_2
          ? [0, 20]
          : [-1, 0];
  if (typeAt < 0)
    return linkType === LINK_RAW || linkType === 12
      ? { ip: bytes, kind: "ip" }
      : { ip: new Uint8Array(0), kind: "other" };
  if (bytes.length < headerBytes) return { ip: new Uint8Array(0), kind: "short" };
  const ethertype = view.getUint16(typeAt);
  const kind = ETHERTYPES[ethertype] ?? `ethertype 0x${ethertype.toString(16)}`;
  return { ip: kind.startsWith("ip") ? bytes.subarray(headerBytes) : new Uint8Array(0), kind };
}

function describeIp(ip: Uint8Array): string {
  const version = (ip[0] ?? 0) >> 4;
  if (version === 4 && ip.length >= 20) {
    const from = address(ip.subarray(12, 16));
    const to = address(ip.subarray(16, 20));
    const fragment = (viewOf(ip).getUint16(6) & 0x1fff) !== 0;
    return describeTransport(ip.subarray(((ip[0] ?? 0) & 15) * 4), {
      protocol: fragment ? -1 : (ip[9] ?? 0),
      from,
      to,
    });
  }
  if (version === 6 && ip.length >= 40) {
    // Extension headers: only hop-by-hop, which MLD carries.
    const hopByHop = ip[6] === 0;
    const skip = hopByHop ? 40 + ((ip[41] ?? 0) + 1) * 8 : 40;
    const protocol = (hopByHop ? ip[40] : ip[6]) ?? 0;
    return describeTransport(ip.subarray(skip), {
      protocol,
      from: address(ip.subarray(8, 24)),
      to: address(ip.subarray(24, 40)),
    });
  }
  return "ip, cut short";
}

interface Route {
  readonly protocol: number;
  readonly from: string;
  readonly to: string;
}

const PORT_PROTOCOLS: Readonly<Record<number, string>> = { 6: "tcp", 17: "udp" };
const ICMP_PROTOCOLS: Readonly<Record<number, string>> = { 1: "icmp", 58: "icmp6" };

function describeTransport(payload: Uint8Array, route: Route): string {
  const ports = PORT_PROTOCOLS[route.protocol];
  if (ports !== undefined && payload.length >= 8) {
    const view = viewOf(payload);
    const header = ports === "udp" ? 8 : (view.getUint8(Math.min(12, payload.length - 1)) >> 4) * 4;
    const length = Math.max(0, payload.length - header);
    return `${ports} ${withPort(route.from, view.getUint16(0))} > ${withPort(route.to, view.getUint16(2))} length ${length}`;
  }
  const icmp = ICMP_PROTOCOLS[route.protocol];
  if (icmp !== undefined) return `${icmp} ${route.from} > ${route.to} type ${payload[0] ?? -1}`;
  return `${route.protocol < 0 ? "fragment" : `protocol ${route.protocol}`} ${route.from} > ${route.to}`;
}

function withPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

function address(bytes: Uint8Array): string {
  return ipFromBytes(bytes) ?? "?";
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
