// PCP and NAT-PMP on the wire: golden bytes, every truncation, and whatever a router may send.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { IpAddress } from "../../../../src/base/ip.ts";
import {
  natPmpAddress,
  natPmpMap,
  readNatPmpAddress,
  readNatPmpMapped,
} from "../../../../src/net/port-mapping/nat-pmp.ts";
import { isPcpAnswer, pcpAnnounce, pcpMap, readPcpMapped } from "../../../../src/net/port-mapping/pcp.ts";
import { check } from "../../support/property.ts";

const REQUEST = {
  client: "192.168.1.10" as IpAddress,
  nonce: Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
  internalPort: 51820,
  suggested: { address: "203.0.113.7" as IpAddress, port: 40000 },
  lifetimeS: 7200,
};
const CLIENT = "00000000000000000000ffffc0a8010a";
const MAPPING = "0102030405060708090a0b0c11000000ca6c9c40";
const EXTERNAL = "00000000000000000000ffffcb007107";
const GRANTED = Uint8Array.fromHex(`0281000000001c2000000001${"00".repeat(12)}${MAPPING}${EXTERNAL}`);
const ADDRESS = Uint8Array.fromHex("008000000000000acb007107");
const MAPPED = Uint8Array.fromHex("008100000000000aca6c9c4000001c20");

describe("pcpMap(), pcpAnnounce()", () => {
  test("write what RFC 6887 draws", () => {
    expect(pcpMap(REQUEST).toHex()).toBe(`0201000000001c20${CLIENT}${MAPPING}${EXTERNAL}`);
    expect(pcpMap({ ...REQUEST, suggested: null, lifetimeS: 0 }).toHex()).toBe(
      `0201000000000000${CLIENT}0102030405060708090a0b0c11000000ca6c000000000000000000000000ffff00000000`,
    );
    expect(pcpAnnounce(REQUEST.client).toHex()).toBe(`0200000000000000${CLIENT}`);
  });
});

describe("readPcpMapped(), isPcpAnswer()", () => {
  test("read what a router answers", () => {
    expect(readPcpMapped(GRANTED, REQUEST)).toEqual({ result: 0, external: REQUEST.suggested, lifetimeS: 7200 });
    expect(isPcpAnswer(Uint8Array.fromHex(`0280000000000000${"00".repeat(16)}`))).toBe(true);
  });

  test("pass over answers to others, and a lifetime that comes with a refusal", () => {
    for (const at of [0, 1, 24, 35, 36, 40, 41]) {
      const other = GRANTED.slice();
      other[at] = (other[at] ?? 0) ^ 0x20;
      expect(readPcpMapped(other, REQUEST)).toBe(null);
    }
    const refused = GRANTED.slice();
    refused[3] = 8;
    expect(readPcpMapped(refused, REQUEST)).toMatchObject({ result: 8, lifetimeS: 0 });
  });

  test("give null for every truncation", () => {
    for (let length = 0; length < GRANTED.length; length++) {
      expect(readPcpMapped(GRANTED.subarray(0, length), REQUEST)).toBe(null);
    }
  });
});

describe("natPmpAddress(), natPmpMap()", () => {
  test("write what RFC 6886 draws", () => {
    expect(natPmpAddress().toHex()).toBe("0000");
    expect(natPmpMap({ internalPort: 51820, suggestedPort: 40000, lifetimeS: 7200 }).toHex()).toBe(
      "00010000ca6c9c4000001c20",
    );
  });
});

describe("readNatPmpAddress(), readNatPmpMapped()", () => {
  test("read what a router answers", () => {
    expect(readNatPmpAddress(ADDRESS)).toBe("203.0.113.7" as IpAddress);
    expect(readNatPmpMapped(MAPPED, 51820)).toEqual({ result: 0, externalPort: 40000, lifetimeS: 7200 });
  });

  test("pass over refusals, answers to others, and every truncation", () => {
    const refused = ADDRESS.slice();
    refused[3] = 3;
    expect(readNatPmpAddress(refused)).toBe(null);
    expect(readNatPmpMapped(MAPPED, 51821)).toBe(null);
    for (let length = 0; length < MAPPED.length; length++) {
      expect(readNatPmpMapped(MAPPED.subarray(0, length), 51820)).toBe(null);
      if (length < ADDRESS.length) expect(readNatPmpAddress(ADDRESS.subarray(0, length))).toBe(null);
    }
  });
});

describe("all of them", () => {
  test("never throw, whatever comes", () => {
    const heads = fc.constantFrom("", "0280", "0281", "0080", "0081").map((hex) => Uint8Array.fromHex(hex));
    check(
      fc.property(heads, fc.uint8Array({ maxLength: 80 }), (head, rest) => {
        const bytes = Uint8Array.from([...head, ...rest]);
        isPcpAnswer(bytes);
        readPcpMapped(bytes, REQUEST);
        readNatPmpAddress(bytes);
        readNatPmpMapped(bytes, 51820);
      }),
    );
  });
});
