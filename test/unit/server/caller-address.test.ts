import { describe, expect, test } from "bun:test";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import { callerAddress, limitKey } from "../../../src/server/caller-address.ts";

const PROXIES = ["127.0.0.0/8", "10.0.0.0/8", "::1/128"] as Cidr[];

describe("callerAddress()", () => {
  test.each<[string, string | null, Cidr[], string | null]>([
    ["203.0.113.5", null, [], "203.0.113.5"],
    ["::ffff:203.0.113.5", null, [], "203.0.113.5"],
    ["fe80::1%eth0", null, [], "fe80::1"],
    ["203.0.113.5", "198.51.100.1", [], "203.0.113.5"],
    ["203.0.113.5", "198.51.100.1", PROXIES, "203.0.113.5"],
    ["127.0.0.1", "198.51.100.1", PROXIES, "198.51.100.1"],
    ["::ffff:127.0.0.1", "2001:db8::7", PROXIES, "2001:db8::7"],
    ["127.0.0.1", "1.1.1.1, 198.51.100.1, 10.1.2.3", PROXIES, "198.51.100.1"],
    ["127.0.0.1", "10.9.9.9", PROXIES, "10.9.9.9"],
    ["127.0.0.1", "nonsense", PROXIES, "127.0.0.1"],
    ["127.0.0.1", "198.51.100.1, nonsense", PROXIES, "127.0.0.1"],
    ["127.0.0.1", "", PROXIES, "127.0.0.1"],
    ["", null, [], null],
  ])("takes %p with %p", (peer, forwarded, proxies, expected) => {
    expect(callerAddress(peer, forwarded, proxies)).toBe(expected as IpAddress | null);
  });
});

test("limitKey() counts an IPv4 address, and the /64 of an IPv6 address", () => {
  expect(limitKey("203.0.113.5" as IpAddress)).toBe("203.0.113.5");
  expect(limitKey("2001:db8:1:2::1" as IpAddress)).toBe(limitKey("2001:db8:1:2:ffff::9" as IpAddress));
  expect(limitKey("2001:db8:1:2::1" as IpAddress)).not.toBe(limitKey("2001:db8:1:3::1" as IpAddress));
});
