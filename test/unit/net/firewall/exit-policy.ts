// Whole policies of an exit, as the tests of its firewall use them.
import { type Cidr, type IpAddress, parseCidr, parseIp } from "../../../../src/base/ip.ts";
import { type ExitPolicy, LEASE_S, USUAL_OUTLET } from "../../../../src/net/firewall/exit.ts";

export function ip(text: string): IpAddress {
  const parsed = parseIp(text);
  if (parsed === null) throw new Error(`"${text}" is no address.`);
  return parsed;
}

export function cidr(text: string): Cidr {
  const parsed = parseCidr(text);
  if (parsed === null) throw new Error(`"${text}" is no prefix.`);
  return parsed;
}

export const EXIT_POLICY: ExitPolicy = {
  interface: "higgsn0",
  uplinks: ["eth0", "ppp0"],
  clients4: [ip("10.83.0.2"), ip("10.83.0.3")],
  clients6: [ip("fd83:1:2::2"), ip("fd83:1:2::3")],
  addresses: [ip("10.83.0.1"), ip("fd83:1:2::1")],
  here4: [cidr("192.168.1.0/24"), cidr("192.168.1.10/32"), cidr("203.0.113.7/32")],
  here6: [cidr("2001:db8:7::/48"), cidr("2001:db8:7:1::/64"), cidr("fe80::1/128")],
  fence4: ["eth0", "ppp0"],
  fence6: [],
  outlet: USUAL_OUTLET,
  resolverPort: 5300,
  leaseS: LEASE_S,
  open: true,
};

/** Without an uplink and without clients. */
export const CLOSED_POLICY: ExitPolicy = {
  ...EXIT_POLICY,
  uplinks: [],
  fence4: [],
  clients4: [],
  clients6: [],
  here4: [],
  here6: [],
};

/** With all that an owner can decide. */
export const OUTLET_POLICY: ExitPolicy = {
  ...EXIT_POLICY,
  outlet: {
    ports: [
      { protocol: "tcp", first: 443, last: 443 },
      { protocol: "tcp", first: 80, last: 80 },
      { protocol: "tcp", first: 440, last: 450 },
    ],
    mail: true,
    closed: [cidr("198.51.100.0/24"), cidr("198.51.100.7/32"), cidr("2001:db8:66::/48")],
    lan: [
      { prefix: cidr("192.168.1.20/32"), sources: [ip("10.83.0.2")] },
      { prefix: cidr("2001:db8:7:1::/64"), sources: null },
    ],
  },
};
