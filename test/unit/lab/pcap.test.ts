// The sniffer's reader: recorded packets in one line of text each, whatever pieces the stream comes in, and no error from any bytes.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { pcapReader } from "../../../src/lab/pcap.ts";

const ETHERNET = 1;
const RAW = 101;
const MACS = "020000000001 020000000002";
const UDP4 = `${MACS} 0800 4500001e 00004000 4011 0000 c0a80702 cb00710a 9cbb270f 000a0000 6869`;
const TCP6 = `${MACS} 86dd 60000000 0014 06 40 20010db8000700010000000000000010 20010db8008000000000000000000080 c001 0050 00000001 00000000 5002 ffff 0000 0000`;
const ARP = `${MACS} 0806 0001080006040001 020000000001 c0a80702 000000000000 c0a80701`;
const MLD = `${MACS} 86dd 60000000 0024 00 01 fe800000000000000000000000000001 ff020000000000000000000000000016 3a000502 00000100 8f000000 00000001 04000000 ff020000000000000000000000000002`;

function hex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex"));
}

function stream(packets: readonly string[], linkType = ETHERNET): Uint8Array {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2_c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(262_144, 16);
  header.writeUInt32LE(linkType, 20);
  const records = packets.flatMap((packet, index) => {
    const bytes = hex(packet);
    const record = Buffer.alloc(16);
    record.writeUInt32LE(1000 + index, 0);
    record.writeUInt32LE(500_000, 4);
    record.writeUInt32LE(bytes.length, 8);
    record.writeUInt32LE(bytes.length, 12);
    return [record, bytes];
  });
  return new Uint8Array(Buffer.concat([header, ...records]));
}

const ALL = [UDP4, TCP6, ARP, MLD];
const TEXTS = [
  "udp 192.168.7.2:40123 > 203.0.113.10:9999 length 2",
  "tcp [2001:db8:7:1::10]:49153 > [2001:db8:80::80]:80 length 0",
  "arp",
  "icmp6 fe80::1 > ff02::16 type 143",
];

describe("pcapReader()", () => {
  test("gives each packet's time, bytes and text", () => {
    const packets = pcapReader().push(stream(ALL));
    expect(packets.map((packet) => packet.text)).toEqual(TEXTS);
    expect(packets.map((packet) => packet.timeMs)).toEqual([1_000_500, 1_001_500, 1_002_500, 1_003_500]);
    expect(packets.map((packet) => packet.bytes)).toEqual(ALL.map(hex));
    expect(packets[0]?.ip).toEqual(hex(UDP4).slice(14));
    expect(packets[2]?.ip).toHaveLength(0);
  });

  test("reads a tunnel's packets, which have no link header", () => {
    expect(pcapReader().push(stream([UDP4.slice(MACS.length + 6)], RAW))[0]?.text).toBe(TEXTS[0] ?? "");
  });

  test("gives the same packets whatever pieces the stream comes in", () => {
    const whole = stream(ALL);
    fc.assert(
      fc.property(fc.array(fc.nat(whole.length)), (cuts) => {
        const reader = pcapReader();
        const at = [0, ...cuts.toSorted((a, b) => a - b), whole.length];
        const texts = at.slice(1).flatMap((end, index) => reader.push(whole.subarray(at[index], end)));
        expect(texts.map((packet) => packet.text)).toEqual(TEXTS);
      }),
    );
  });

  test("has a text for packets cut anywhere and for any bytes", () => {
    for (const packet of ALL) {
      const bytes = packet.replaceAll(" ", "");
      for (let length = 0; length <= bytes.length; length += 2) {
        expect(pcapReader().push(stream([bytes.slice(0, length)]))).toHaveLength(1);
      }
    }
    const bytes = fc.uint8Array({ maxLength: 120 });
    fc.assert(
      fc.property(bytes, fc.constantFrom(ETHERNET, RAW, 113, 276, 0), (packet, linkType) => {
        expect(pcapReader().push(stream([Buffer.from(packet).toString("hex")], linkType))).toHaveLength(1);
      }),
    );
  });
});
