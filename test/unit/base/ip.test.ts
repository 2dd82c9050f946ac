import { describe, expect, test } from "bun:test";
import { isIP } from "node:net";
import fc from "fast-check";
import {
  type Cidr,
  cidrContains,
  cidrNth,
  cidrParts,
  cidrsOverlap,
  familyOf,
  formatEndpoint,
  formatHostPort,
  hostCidr,
  type IpAddress,
  ipBytes,
  ipFromBytes,
  parseCidr,
  parseEndpoint,
  parseHostPort,
  parseIp,
} from "../../../src/base/ip.ts";
import { hex } from "../support/keys.ts";
import { check } from "../support/property.ts";
import { anyCidr, anyEndpoint, anyHostPort, anyIp } from "../support/values.ts";

/** Text that is nearly an address. */
const addressLike = fc.string({
  unit: fc.constantFrom(
    "0",
    "1",
    "9",
    "25",
    "255",
    "256",
    "a",
    "F",
    "ffff",
    ".",
    ".",
    ":",
    ":",
    "::",
    "%",
    "/",
    "x",
    " ",
  ),
  maxLength: 14,
});

const plain = (text: string): string | null => parseIp(text);
const prefix = (text: string): string | null => parseCidr(text);
const cidr = (text: string): Cidr => {
  const parsed = parseCidr(text);
  if (parsed === null) throw new Error(`Cannot test: "${text}" is no prefix.`);
  return parsed;
};
const ip = (text: string): IpAddress => {
  const parsed = parseIp(text);
  if (parsed === null) throw new Error(`Cannot test: "${text}" is no address.`);
  return parsed;
};

describe("parseIp()", () => {
  test("parseIp() writes IPv6 as RFC 5952 does", () => {
    // Section 4 of the RFC, and its rule that of two equal runs the first is shortened.
    expect(plain("2001:0DB8:0:0:0:0:0:1")).toBe("2001:db8::1");
    expect(plain("2001:db8:0:0:1:0:0:1")).toBe("2001:db8::1:0:0:1");
    expect(plain("2001:db8:0:1:1:1:1:1")).toBe("2001:db8:0:1:1:1:1:1");
    expect(plain("::")).toBe("::");
    expect(plain("0:0:0:0:0:0:0:1")).toBe("::1");
    expect(plain("fe80:0:0:0:0:0:0:0")).toBe("fe80::");
  });

  test("parseIp() takes an IPv4-mapped address for the IPv4 address that it is", () => {
    expect(plain("::ffff:192.0.2.1")).toBe("192.0.2.1");
    expect(plain("::FFFF:c000:201")).toBe("192.0.2.1");
    expect(plain("0:0:0:0:0:ffff:c000:201")).toBe("192.0.2.1");
  });

  test("parseIp() refuses the spellings that other parsers read otherwise", () => {
    const spellings = ["127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "1.2.3.04", "00.0.0.0", "1.2.3.4.", "1.2.3"];
    const ipv6 = [
      ":",
      "::ffff:1.2.3.04",
      "::ffff:0x1.2.3.4",
      "::1.2.3",
      "fe80::1%eth0",
      "[::1]",
      "1::2::3",
      ":1",
      "1:2:3:4:5:6:7",
    ];
    const other = [
      "",
      " 1.2.3.4",
      "1.2.3.4 ",
      "1.2.3.4\n",
      "::1\n",
      "1.2.3.4/32",
      "256.0.0.1",
      "１.2.3.4",
      "localhost",
    ];
    for (const text of [...spellings, ...ipv6, ...other]) expect({ text, ip: plain(text) }).toEqual({ text, ip: null });
  });

  test("parseIp() accepts what node:net calls an address without zone, and nothing else", () => {
    check(
      fc.property(fc.oneof(addressLike, fc.ipV4(), fc.ipV6()), (text) => {
        expect({ text, accepted: parseIp(text) !== null }).toEqual({
          text,
          accepted: isIP(text) !== 0 && !text.includes("%"),
        });
      }),
    );
  });

  test("parseIp() writes IPv6 as a URL's host is written", () => {
    check(
      fc.property(anyIp, (address) => {
        if (familyOf(address) === 6) expect(new URL(`http://[${address}]/`).hostname).toBe(`[${address}]`);
      }),
    );
  });

  test("parseIp() leaves its own result as it is", () => {
    check(fc.property(anyIp, (address) => expect(parseIp(address)).toBe(address)));
  });
});

describe("bytes of addresses", () => {
  test("ipBytes() writes network order", () => {
    expect(ipBytes(ip("192.0.2.1")).toHex()).toBe("c0000201");
    expect(ipBytes(ip("2001:db8::1")).toHex()).toBe("20010db8000000000000000000000001");
  });

  test("ipFromBytes() gives back the address, and null for every other length", () => {
    check(fc.property(anyIp, (address) => expect(ipFromBytes(ipBytes(address))).toBe(address)));
    for (let length = 0; length < 20; length++) {
      expect(ipFromBytes(new Uint8Array(length)) !== null).toBe(length === 4 || length === 16);
    }
  });

  test("ipFromBytes() takes an IPv4-mapped address for the IPv4 address that it is", () => {
    expect(ipFromBytes(hex("00000000000000000000ffffc0000201")) as string).toBe("192.0.2.1");
  });
});

describe("prefixes", () => {
  test("parseCidr() clears the host's bits", () => {
    expect(prefix("10.1.2.3/16")).toBe("10.1.0.0/16");
    expect(prefix("10.1.2.3/0")).toBe("0.0.0.0/0");
    expect(prefix("10.255.255.255/9")).toBe("10.128.0.0/9");
    expect(prefix("2001:db8:ffff::1/33")).toBe("2001:db8:8000::/33");
    expect(prefix("::/0")).toBe("::/0");
  });

  test("parseCidr() refuses what is no prefix", () => {
    const wrong = [
      "",
      "/",
      "1.2.3.4",
      "1.2.3.4/",
      "1.2.3.4/33",
      "::/129",
      "1.2.3.4/-1",
      "1.2.3.4/8/8",
      "1.2.3/8",
      "1.2.3.4/1e1",
    ];
    for (const text of [...wrong, "::1%eth0/64", "1.2.3.4/8\n", "example/8"])
      expect({ text, cidr: prefix(text) }).toEqual({ text, cidr: null });
  });

  test("parseCidr() does not take an IPv4-mapped prefix for an IPv4 prefix of that length", () => {
    expect(prefix("::ffff:10.0.0.1/8")).toBeNull();
    expect(prefix("::ffff:10.0.0.1/104")).toBeNull();
  });

  test("parseCidr() leaves its own result as it is", () => {
    check(fc.property(anyCidr, (one) => expect(parseCidr(one)).toBe(one)));
  });

  test("hostCidr() holds its one address", () => {
    expect(hostCidr(ip("192.0.2.1")) as string).toBe("192.0.2.1/32");
    expect(hostCidr(ip("2001:db8::1")) as string).toBe("2001:db8::1/128");
    check(
      fc.property(anyIp, anyIp, (a, b) => {
        expect(cidrContains(hostCidr(a), b)).toBe(a === b);
      }),
    );
  });

  test("cidrContains() agrees with parsing the address under that length", () => {
    check(
      fc.property(anyCidr, anyIp, (one, address) => {
        const { length } = cidrParts(one);
        const same = familyOf(one) === familyOf(address);
        expect(cidrContains(one, address)).toBe(same && parseCidr(`${address}/${length}`) === one);
      }),
    );
  });

  test("cidrContains() lets just the bits behind the prefix differ", () => {
    check(
      fc.property(anyCidr, fc.nat(127), (one, nth) => {
        const { address, length } = cidrParts(one);
        const bytes = ipBytes(address);
        const bit = nth % (bytes.length * 8);
        const other = ipFromBytes(bytes.with(bit >> 3, (bytes[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7))));
        if (other === null || familyOf(other) !== familyOf(one)) return; // the bit made it IPv4-mapped
        expect({ one, other, contains: cidrContains(one, other) }).toEqual({ one, other, contains: bit >= length });
      }),
    );
  });

  test("cidrContains() keeps the families apart", () => {
    expect(cidrContains(cidr("0.0.0.0/0"), ip("::1"))).toBe(false);
    expect(cidrContains(cidr("::/0"), ip("192.0.2.1"))).toBe(false);
  });

  test("cidrContains() decides at the bit where the prefix ends", () => {
    expect(cidrContains(cidr("10.64.0.0/10"), ip("10.127.255.255"))).toBe(true);
    expect(cidrContains(cidr("10.64.0.0/10"), ip("10.128.0.0"))).toBe(false);
    expect(cidrContains(cidr("fd00::/47"), ip("fd00:0:1::"))).toBe(true);
    expect(cidrContains(cidr("fd00::/47"), ip("fd00:0:2::"))).toBe(false);
  });

  test("cidrsOverlap() is true either way round, and for every address inside", () => {
    check(
      fc.property(anyCidr, anyCidr, (a, b) => {
        expect(cidrsOverlap(a, b)).toBe(cidrsOverlap(b, a));
        expect(cidrsOverlap(a, a)).toBe(true);
        expect(cidrsOverlap(a, hostCidr(cidrParts(a).address))).toBe(true);
      }),
    );
    expect(cidrsOverlap(cidr("10.0.0.0/8"), cidr("10.64.3.0/24"))).toBe(true);
    expect(cidrsOverlap(cidr("10.0.0.0/9"), cidr("10.128.0.0/9"))).toBe(false);
  });

  test("cidrNth() counts from the prefix' first address and carries over bytes", () => {
    const nth = (text: string, offset: number): string => cidrNth(cidr(text), offset);
    expect(nth("10.64.0.0/16", 0)).toBe("10.64.0.0");
    expect(nth("10.64.0.0/16", 255)).toBe("10.64.0.255");
    expect(nth("10.64.0.0/16", 256)).toBe("10.64.1.0");
    expect(nth("10.64.0.0/16", 65_535)).toBe("10.64.255.255");
    expect(nth("fd12:3456:789a::/48", 0x1_0000)).toBe("fd12:3456:789a::1:0");
    expect(nth("fd12:3456:789a::/48", 0xffff_ffff)).toBe("fd12:3456:789a::ffff:ffff");
    expect(nth("fd12:3456:789a::/48", 0x1_2345_6789_abcd)).toBe("fd12:3456:789a:0:1:2345:6789:abcd");
  });

  test("cidrNth() gives a different address inside the prefix for every offset that fits", () => {
    const seen = new Set(Array.from({ length: 1024 }, (_, offset) => cidrNth(cidr("10.64.4.0/22"), offset)));
    expect(seen.size).toBe(1024);
    expect([...seen].every((address) => cidrContains(cidr("10.64.4.0/22"), address))).toBe(true);
  });
});

describe("endpoints", () => {
  test("parseEndpoint() gives back what formatEndpoint() wrote", () => {
    check(fc.property(anyEndpoint, (endpoint) => expect(parseEndpoint(formatEndpoint(endpoint))).toEqual(endpoint)));
    expect(formatEndpoint({ address: ip("2001:db8::1"), port: 5 })).toBe("[2001:db8::1]:5");
  });

  test("parseEndpoint() refuses names, zones and ports out of range", () => {
    const wrong = [
      "",
      "1.2.3.4",
      "1.2.3.4:0",
      "1.2.3.4:65536",
      "::1:5",
      "[::1]",
      "[::1%lo]:5",
      "host:5",
      "1.2.3.4:5 ",
      "1.2.3.4:-5",
    ];
    for (const text of wrong) expect({ text, endpoint: parseEndpoint(text) }).toEqual({ text, endpoint: null });
  });

  test("parseHostPort() gives back what formatHostPort() wrote", () => {
    check(fc.property(anyHostPort, (target) => expect(parseHostPort(formatHostPort(target), 443)).toEqual(target)));
  });

  test("parseHostPort() fills in the port and takes what people write", () => {
    expect(parseHostPort("vpn.Example", 443)).toEqual({ host: "vpn.example", port: 443 });
    expect(parseHostPort("203.0.113.10:8443", 443)).toEqual({ host: "203.0.113.10", port: 8443 });
    expect(parseHostPort("2001:DB8::1", 443)).toEqual({ host: "2001:db8::1", port: 443 });
    expect(parseHostPort("[2001:db8::1]", 443)).toEqual({ host: "2001:db8::1", port: 443 });
    expect(parseHostPort("[::ffff:192.0.2.1]:5", 443)).toEqual({ host: "192.0.2.1", port: 5 });
  });

  test("parseHostPort() takes names and ports up to their limits", () => {
    const longest = `${"a".repeat(63)}.`.repeat(3) + "b".repeat(61);
    expect(longest.length).toBe(253);
    for (const host of [longest, "ab.example", "9.z9-0a.example", "x".repeat(63), "localhost"]) {
      expect(parseHostPort(`${host}:65535`, 443)).toEqual({ host, port: 65_535 });
    }
    expect(parseHostPort(`${longest}b`, 443)).toBeNull();
    expect(parseEndpoint("192.0.2.1:65535")).toEqual({ address: ip("192.0.2.1"), port: 65_535 });
  });

  test("parseHostPort() refuses what is neither an address nor a name", () => {
    const wrong = [
      "",
      ":443",
      "a b",
      "a/b",
      "-a",
      "a-",
      "a..b",
      ".a",
      "a_b",
      "host:0",
      "host:65536",
      "host:",
      "[host]:1",
      "[::1",
      "a".repeat(64),
    ];
    for (const text of wrong) expect({ text, target: parseHostPort(text, 443) }).toEqual({ text, target: null });
  });

  test("parseHostPort() refuses numbers that a resolver would read as an address", () => {
    for (const text of ["127.1", "2130706433", "0x7f000001", "0x7f.1", "1.2.3.4.5", "0x7f.0.0.0x1:80", "host.1"]) {
      expect({ text, target: parseHostPort(text, 443) }).toEqual({ text, target: null });
    }
    expect(parseHostPort("1and1.example", 443)).toEqual({ host: "1and1.example", port: 443 });
  });

  test("parseIp(), parseCidr(), parseEndpoint() and parseHostPort() return null or a value for any text, and never throw", () => {
    check(
      fc.property(fc.oneof(addressLike, fc.string({ unit: "binary" })), (text) => {
        for (const value of [parseIp(text), parseCidr(text)])
          if (value !== null) expect(value).toMatch(/^[0-9a-f.:/]+$/);
        parseEndpoint(text);
        const target = parseHostPort(text, 443);
        if (target !== null) expect(parseHostPort(formatHostPort(target), 443)).toEqual(target);
      }),
    );
  });
});
