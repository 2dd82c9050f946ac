import { describe, expect, test } from "bun:test";
import { type Cidr, type Endpoint, type IpAddress, parseEndpoint } from "../../../src/base/ip.ts";
import type { Links, LocalAddress } from "../../../src/net/links.ts";
import { directTarget, isWorthAPacket, ownCandidates, sourceTo, targetsOf } from "../../../src/peer/candidates.ts";
import { candidatesSchema, MOST_CANDIDATES } from "../../../src/proto/path.ts";

function local(address: string, more: Partial<LocalAddress> = {}): LocalAddress {
  return {
    interface: "eth0",
    address: address as IpAddress,
    prefixLength: address.includes(":") ? 64 : 24,
    scope: "global",
    temporary: false,
    deprecated: false,
    tentative: false,
    ...more,
  };
}

function linksOf(addresses: readonly LocalAddress[], prefixes: readonly string[] = ["192.168.1.0/24"]): Links {
  return {
    uplinks: [{ interface: "eth0", family: 4, gateway: null, metric: 1 }],
    connected: prefixes.map((prefix) => ({ interface: "eth0", prefix: prefix as Cidr })),
    addresses,
    delegated: [],
    mtus: new Map(),
  };
}

function endpoint(text: string): Endpoint {
  const parsed = parseEndpoint(text);
  if (parsed === null) throw new Error(`no endpoint: ${text}`);
  return parsed;
}

const RANGES = ["10.77.0.0/16", "fd00:77::/48"] as Cidr[];
const LINKS = linksOf([local("192.168.1.2")]);
const none = { reflexive: [], mapped: [], manual: [] };

describe("ownCandidates()", () => {
  test("names what people set by hand first, and each place once", () => {
    const got = ownCandidates({
      links: LINKS,
      port: 51820,
      reflexive: [endpoint("203.0.113.5:51820"), endpoint("203.0.113.5:51820"), endpoint("192.168.1.2:51820")],
      mapped: [endpoint("203.0.113.5:7000")],
      manual: [endpoint("203.0.113.5:9000")],
    });
    expect(got).toEqual([
      { kind: "manual", endpoint: "203.0.113.5:9000" },
      { kind: "mapped", endpoint: "203.0.113.5:7000" },
      { kind: "reflexive", endpoint: "203.0.113.5:51820" },
      { kind: "reflexive", endpoint: "192.168.1.2:51820" },
    ]);
  });

  test("leaves out addresses that are of no use, and puts lasting ones before private ones", () => {
    const links = linksOf([
      local("2001:db8::aaaa", { temporary: true }),
      local("2001:db8::1"),
      local("2001:db8::2", { deprecated: true }),
      local("2001:db8::3", { tentative: true }),
      local("fe80::1", { scope: "link" }),
    ]);
    expect(ownCandidates({ links, port: 1, ...none }).map((one) => one.endpoint)).toEqual([
      "[2001:db8::1]:1",
      "[2001:db8::aaaa]:1",
    ]);
  });

  test("are never more than the wire takes", () => {
    const links = linksOf(Array.from({ length: 60 }, (_, n) => local(`192.168.1.${n + 1}`)));
    const got = ownCandidates({ links, port: 1, ...none });
    expect(got).toHaveLength(MOST_CANDIDATES);
    expect(candidatesSchema.safeParse(got).success).toBe(true);
  });
});

describe("isWorthAPacket()", () => {
  const refused = { links: LINKS, ranges: RANGES };
  for (const address of [
    "0.0.0.0",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "10.77.0.5",
    "fd00:77::5",
    "192.168.1.2",
  ]) {
    test(`never ${address}`, () => expect(isWorthAPacket(address as IpAddress, refused)).toBe(false));
  }
  for (const address of ["192.168.1.3", "10.0.0.1", "100.64.0.1", "203.0.113.5", "2001:db8::1", "fd12::1"]) {
    test(address, () => expect(isWorthAPacket(address as IpAddress, refused)).toBe(true));
  }
});

test("directTarget() sees a LAN where a private address is in a network of ours", () => {
  const lan = (text: string): boolean => directTarget(endpoint(text), LINKS).lan;
  expect([lan("192.168.1.9:1"), lan("192.168.2.9:1"), lan("203.0.113.5:1")]).toEqual([true, false, false]);
  const open = linksOf([local("203.0.113.4")], ["203.0.113.0/24"]);
  expect(directTarget(endpoint("203.0.113.5:1"), open).lan).toBe(false);
});

test("directTarget() takes what our router turned round for no LAN's own way", () => {
  const gateway = "192.168.1.1" as IpAddress;
  const links = { ...LINKS, uplinks: [{ interface: "eth0", family: 4 as const, gateway, metric: 0 }] };
  const lan = (text: string): boolean => directTarget(endpoint(text), links).lan;
  expect([lan("192.168.1.1:65521"), lan("192.168.1.9:1")]).toEqual([false, true]);
});

describe("targetsOf()", () => {
  const refused = { links: LINKS, ranges: RANGES };

  test("are the relay's ports and what the peer may be reached at", () => {
    const remote = [
      { kind: "host" as const, endpoint: "192.168.1.3:51820" },
      { kind: "reflexive" as const, endpoint: "127.0.0.1:22" },
      { kind: "reflexive" as const, endpoint: "203.0.113.5:51820" },
    ];
    expect(targetsOf(remote, ["203.0.113.10:40000"], refused).map(({ key, kind }) => `${kind} ${key}`)).toEqual([
      "udp-relay 203.0.113.10:40000",
      "direct 192.168.1.3:51820",
      "direct 203.0.113.5:51820",
    ]);
  });

  test("leave out a family that this machine has no way out in", () => {
    const remote = [{ kind: "host" as const, endpoint: "[2001:db8::1]:1" }];
    expect(targetsOf(remote, ["[2001:db8::9]:40000"], refused)).toEqual([]);
  });
});

test("sourceTo() names our address on the link that leads there: another link's would be answered the old way", () => {
  const links: Links = {
    ...linksOf([
      local("192.168.1.9", { prefixLength: 32 }),
      local("192.168.1.2"),
      local("10.99.0.2", { interface: "lan0" }),
    ]),
    uplinks: [{ interface: "eth0", family: 4, gateway: "192.168.1.1" as IpAddress, metric: 1 }],
    connected: [
      { interface: "eth0", prefix: "192.168.1.0/24" as Cidr },
      { interface: "lan0", prefix: "10.99.0.0/24" as Cidr },
    ],
  };
  const from = (text: string): string | null => sourceTo(endpoint(text), links);
  expect(from("198.51.100.1:1")).toBe("192.168.1.2");
  expect(from("10.99.0.10:1")).toBe("10.99.0.2");
  expect(from("192.168.1.7:1")).toBe("192.168.1.2");
  expect(from("[2001:db8::1]:1")).toBeNull();
});
