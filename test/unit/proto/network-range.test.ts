import { expect, test } from "bun:test";
import type { Cidr } from "../../../src/base/ip.ts";
import { isNetworkRange } from "../../../src/proto/network-range.ts";

test.each(["10.0.0.0/16", "10.64.7.0/24", "172.31.0.0/16", "192.168.0.0/16", "fd12:3456:789a::/48"])(
  "isNetworkRange() takes the private %p",
  (range) => {
    expect(isNetworkRange(range as Cidr)).toBe(true);
  },
);

test.each([
  "0.0.0.0/0",
  "::/0",
  "10.0.0.0/15",
  "10.0.0.0/8",
  "172.32.0.0/16",
  "100.64.0.0/16",
  "203.0.113.0/24",
  "fc00::/7",
  "fd00::/47",
  "2001:db8::/48",
])("isNetworkRange() refuses %p, which holds others' addresses", (range) => {
  expect(isNetworkRange(range as Cidr)).toBe(false);
});
