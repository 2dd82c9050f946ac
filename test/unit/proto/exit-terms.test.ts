import { expect, test } from "bun:test";
import fc from "fast-check";
import type { Cidr } from "../../../src/base/ip.ts";
import { decodeExitTerms, encodeExitTerms, type ExitTerms, MOST_TERMS } from "../../../src/proto/exit-terms.ts";
import { everyTruncation, noise } from "../support/noise.ts";
import { check } from "../support/property.ts";

const cidr = (text: string): Cidr => text as Cidr;
const NOTHING: ExitTerms = {
  mail: false,
  ports: null,
  closed: [],
  opened: [],
  filtersNames: false,
  logDays: 0,
  isWhole: true,
};
const MUCH: ExitTerms = {
  mail: true,
  ports: [
    { protocol: "tcp", first: 443, last: 443 },
    { protocol: "udp", first: 1000, last: 2000 },
  ],
  closed: [cidr("198.51.100.0/24"), cidr("2001:db8:66::/48")],
  opened: [
    { prefix: cidr("192.168.1.20/32"), forAll: false },
    { prefix: cidr("2001:db8:7:1::/64"), forAll: true },
  ],
  filtersNames: true,
  logDays: 7,
  isWhole: true,
};

test("encodeExitTerms() and decodeExitTerms() agree on these bytes", () => {
  expect(encodeExitTerms(NOTHING).toHex()).toBe("00000000000000");
  expect(encodeExitTerms(MUCH).toHex()).toBe(
    "00070007" +
      "02" +
      "0601bb01bb" +
      "1103e807d0" +
      "02" +
      "0418c6336400" +
      "063020010db8006600000000000000000000" +
      "02" +
      "010420c0a80114" +
      "00064020010db8000700010000000000000000",
  );
  for (const terms of [NOTHING, MUCH]) expect(decodeExitTerms(encodeExitTerms(terms))).toEqual(terms);
});

test("decodeExitTerms() passes over what a later version adds, and knows that it did not understand all", () => {
  expect(decodeExitTerms(Uint8Array.from([...encodeExitTerms(MUCH), 1, 2, 3]))).toEqual({ ...MUCH, isWhole: false });
  expect(decodeExitTerms(encodeExitTerms(MUCH).with(0, 0x80))).toEqual({ ...MUCH, isWhole: false });
});

test("decodeExitTerms() takes no beginning, no wrong family, protocol or prefix, and throws for nothing", () => {
  const whole = encodeExitTerms(MUCH);
  for (const part of everyTruncation(whole)) expect(decodeExitTerms(part)).toBeNull();
  expect(decodeExitTerms(whole.with(5, 7))).toBeNull();
  expect(decodeExitTerms(whole.with(16, 5))).toBeNull();
  expect(decodeExitTerms(whole.with(17, 33))).toBeNull();
  check(fc.property(noise(whole), (bytes) => void decodeExitTerms(bytes)));
});

test("the longest terms leave room in a record", () => {
  const longest: ExitTerms = {
    ...MUCH,
    ports: Array.from({ length: MOST_TERMS.ports }, () => ({ protocol: "tcp" as const, first: 1, last: 2 })),
    closed: Array.from({ length: MOST_TERMS.closed }, () => cidr("2001:db8::/48")),
    opened: Array.from({ length: MOST_TERMS.opened }, () => ({ prefix: cidr("2001:db8::/48"), forAll: true })),
  };
  expect(encodeExitTerms(longest).length).toBeLessThan(3_000); // of 4 096
});
