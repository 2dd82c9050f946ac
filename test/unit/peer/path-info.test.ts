import { expect, test } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import { FULL_BYTES } from "../../../src/peer/path-check.ts";
import { fresh, isBetter, type PathInfo } from "../../../src/peer/path-info.ts";

function info(address: string, rttMs: number): PathInfo {
  const endpoint = { address: address as IpAddress, port: 1 };
  return { ...fresh({ key: address, kind: "direct", endpoint, lan: false }), rttMs, sizeBytes: FULL_BYTES };
}
const four = (rttMs: number) => info("198.51.100.1", rttMs);
const six = (rttMs: number) => info("2001:db8::1", rttMs);

test("isBetter() takes IPv6 where both have it, unless it is much slower", () => {
  expect(isBetter(six(20), four(20))).toBe(true);
  expect(isBetter(six(22), four(20))).toBe(true);
  expect(isBetter(six(40), four(20))).toBe(false);
  expect(isBetter(four(20), six(40))).toBe(true);
});

test("isBetter() never says of two paths that each is better than the other", () => {
  for (let a = 0; a < 60; a += 0.5) {
    for (let b = 0; b < 60; b += 0.5) expect(isBetter(six(a), four(b)) && isBetter(four(b), six(a))).toBe(false);
  }
});
