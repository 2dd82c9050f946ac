import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type Cidr, cidrContains, cidrParts } from "../../../src/base/ip.ts";
import { addressesOf, parseNetworkRange, randomRange4, randomRange6 } from "../../../src/server/network.ts";
import { check } from "../support/property.ts";

describe("randomRange4()", () => {
  test("draws a /16 of 10.64.0.0/10, whatever the bytes are", () => {
    check(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 1 }), (random) => {
        const range = randomRange4(random);
        expect(cidrParts(range).length).toBe(16);
        expect(cidrContains("10.64.0.0/10" as Cidr, cidrParts(range).address)).toBe(true);
      }),
    );
  });
});

test("randomRange6() draws a /48 of fd00::/8", () => {
  expect(randomRange6(Uint8Array.of(0x12, 0x34, 0x56, 0x78, 0x9a))).toBe("fd12:3456:789a::/48" as Cidr);
  expect(randomRange6()).toMatch(/^fd[0-9a-f]{2}:.*\/48$/);
});

describe("addressesOf()", () => {
  const ranges = { range4: "10.99.0.0/16" as Cidr, range6: "fd00:1:2::/48" as Cidr };

  test("gives machine n the nth address of both ranges", () => {
    expect(addressesOf(1, ranges) as object).toEqual({ ipv4: "10.99.0.1", ipv6: "fd00:1:2::1" });
    expect(addressesOf(256, ranges) as object).toEqual({ ipv4: "10.99.1.0", ipv6: "fd00:1:2::100" });
    expect(addressesOf(65_534, ranges) as object).toEqual({ ipv4: "10.99.255.254", ipv6: "fd00:1:2::fffe" });
  });

  test("refuses the broadcast address and what is beyond it", () => {
    for (const host of [65_535, 65_536, 1e9]) {
      expect(() => addressesOf(host, ranges)).toThrow(expect.objectContaining({ code: "range-full" }));
    }
  });
});

describe("parseNetworkRange()", () => {
  test("takes private prefixes of a useful size and clears their host bits", () => {
    expect(parseNetworkRange("10.99.0.0/16")).toBe("10.99.0.0/16" as Cidr);
    expect(parseNetworkRange("192.168.7.9/24")).toBe("192.168.7.0/24" as Cidr);
  });

  test.each([
    "",
    "x",
    "10.99.0.0",
    "10.99.0.0/29",
    "10.99.0.0/25",
    "10.0.0.0/8",
    "10.0.0.0/7",
    "172.32.0.0/16",
    "203.0.113.0/24",
    "fd00::/48",
    "100.64.0.0/16",
    "100.0.0.0/8",
    "0.0.0.0/0",
  ])("refuses %p", (text) => {
    expect(() => parseNetworkRange(text)).toThrow(expect.objectContaining({ code: "network-range" }));
  });
});
