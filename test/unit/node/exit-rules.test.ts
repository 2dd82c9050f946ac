import { expect, test } from "bun:test";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import type { MachineName } from "../../../src/base/hostname.ts";
import {
  type ExitRules,
  outletOf,
  parseLan,
  parseLogDays,
  parsePorts,
  parsePrefix,
  termsOf,
} from "../../../src/node/exit-rules.ts";

const name = (text: string): MachineName => text as MachineName;
const cidr = (text: string): Cidr => text as Cidr;
const LAPTOP = ["10.64.0.2", "fd00:64::2"] as IpAddress[];

const RULES: ExitRules = {
  ports: null,
  closed: [cidr("198.51.100.0/24")],
  lan: [
    { prefix: cidr("192.168.1.20/32"), client: name("laptop") },
    { prefix: cidr("192.168.1.20/32"), client: name("tablet") },
    { prefix: cidr("2001:db8:7:1::20/128"), client: name("laptop") },
    { prefix: cidr("192.168.1.30/32"), client: null },
  ],
  mail: false,
  logDays: 7,
};

test("parsePorts() reads ports and ranges, of both protocols or one", () => {
  expect(parsePorts("443")).toEqual([
    { protocol: "tcp", first: 443, last: 443 },
    { protocol: "udp", first: 443, last: 443 },
  ]);
  expect(parsePorts("udp/500-4500")).toEqual([{ protocol: "udp", first: 500, last: 4500 }]);
  for (const text of ["", "0", "65536", "2-1", "http", "tcp/", "icmp/1", "1-", "-1", "1,2", "443 "]) {
    expect([text, parsePorts(text)]).toEqual([text, null]);
  }
});

test("parsePrefix() takes a prefix, or one address", () => {
  expect(["198.51.100.7", "198.51.100.7/24", "2001:db8::1"].map(parsePrefix)).toEqual(
    ["198.51.100.7/32", "198.51.100.0/24", "2001:db8::1/128"].map(cidr),
  );
  expect(parsePrefix("web.example")).toBeNull();
});

test("parseLan() opens a home's own prefixes, for all or for one client, and never metadata or the machine itself", () => {
  expect(parseLan("192.168.1.0/24")).toEqual({ prefix: cidr("192.168.1.0/24"), client: null });
  expect(parseLan("192.168.1.20@laptop")).toEqual({ prefix: cidr("192.168.1.20/32"), client: name("laptop") });
  expect(parseLan("fd12::/64@laptop")).toEqual({ prefix: cidr("fd12::/64"), client: name("laptop") });
  // The network around Alibaba's metadata service; the address in it stays closed.
  expect(parseLan("100.100.0.0/16")).toEqual({ prefix: cidr("100.100.0.0/16"), client: null });
  for (const text of [
    "169.254.169.254",
    "169.254.0.0/24",
    "168.63.129.16",
    "100.100.100.200/32",
    "fd00:ec2::254",
    "127.0.0.1",
    "fe80::1",
    "224.0.0.1",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/7",
    "192.168.1.0/24@",
    "192.168.1.0/24@No Name",
    "192.168.1.0/24@a@b",
    "nas",
  ]) {
    expect([text, typeof parseLan(text)]).toEqual([text, "string"]);
  }
});

test("parseLogDays() reads off and days", () => {
  expect(["off", "1d", "90d", "0d", "91d", "7", "on", ""].map(parseLogDays)).toEqual([
    0,
    1,
    90,
    null,
    null,
    null,
    null,
    null,
  ]);
});

test("outletOf() opens a part of the own place for the addresses of clients that are in session, and for nobody else", () => {
  const known = outletOf(RULES, (client) => (client === "laptop" ? LAPTOP : []));
  expect(known.lan).toEqual([
    { prefix: cidr("192.168.1.20/32"), sources: ["10.64.0.2" as IpAddress] },
    { prefix: cidr("2001:db8:7:1::20/128"), sources: ["fd00:64::2" as IpAddress] },
    { prefix: cidr("192.168.1.30/32"), sources: null },
  ]);
  expect(outletOf(RULES, () => []).lan).toEqual([{ prefix: cidr("192.168.1.30/32"), sources: null }]);
});

test("termsOf() tells clients what is opened, and not for whom", () => {
  expect(termsOf(RULES, { filtersNames: true })).toEqual({
    mail: false,
    ports: null,
    closed: RULES.closed,
    opened: [
      { prefix: cidr("192.168.1.20/32"), forAll: false },
      { prefix: cidr("2001:db8:7:1::20/128"), forAll: false },
      { prefix: cidr("192.168.1.30/32"), forAll: true },
    ],
    filtersNames: true,
    logDays: 7,
    isWhole: true,
  });
});
