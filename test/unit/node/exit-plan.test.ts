import { expect, test } from "bun:test";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import { USUAL_OUTLET } from "../../../src/net/firewall/exit.ts";
import type { LocalAddress } from "../../../src/net/links.ts";
import { exitPolicy, hasIpv6, herePrefixes } from "../../../src/node/exit-plan.ts";
import { homeLinks } from "./links.ts";

const inputs = {
  interface: "higgsn0",
  resolverPort: 5300,
  addresses: ["10.77.0.2", "fd00:77::2"] as IpAddress[],
  clients: ["10.77.0.9", "fd00:77::9", "10.77.0.10"] as IpAddress[],
  links: homeLinks,
  alsoHere: ["198.51.100.7/32", "2001:db8:77::7/128"] as Cidr[],
  fence: { fence4: [], fence6: [] },
  outlet: USUAL_OUTLET,
  offered: true,
};

test("exitPolicy() says the whole of what an exit's firewall must hold to", () => {
  expect(exitPolicy(inputs)).toEqual({
    interface: "higgsn0",
    uplinks: ["eth0"],
    clients4: ["10.77.0.10", "10.77.0.9"] as IpAddress[],
    clients6: ["fd00:77::9"] as IpAddress[],
    addresses: inputs.addresses,
    here4: ["192.168.1.0/24", "192.168.1.1/32", "192.168.1.20/32", "198.51.100.7/32"] as Cidr[],
    here6: [
      "2001:db8:1:2::/64",
      "2001:db8:1:2::20/128",
      "2001:db8:1::/56",
      "2001:db8:77::7/128",
      "2001:db8:9::/48",
      "fe80::1/128",
    ].sort() as Cidr[],
    fence4: [],
    fence6: [],
    outlet: USUAL_OUTLET,
    resolverPort: 5300,
    leaseS: 30,
    open: false,
  });
});

test("exitPolicy() has no way out where no exit is offered, and isolates all the same", () => {
  const policy = exitPolicy({ ...inputs, offered: false });
  expect(policy.uplinks).toEqual([]);
  expect(policy.here4).toEqual(exitPolicy(inputs).here4);
});

test("exitPolicy() does not depend on the order in which clients are known", () => {
  expect(exitPolicy({ ...inputs, clients: inputs.clients.toReversed() })).toEqual(exitPolicy(inputs));
});

test("herePrefixes() knows the router's public addresses only when somebody has told them", () => {
  expect(herePrefixes(homeLinks, [])).not.toContain("198.51.100.7/32" as Cidr);
});

test("herePrefixes() widens a home's /64 to the /56 that it is most likely of, and nothing that is not of the internet", () => {
  const connected = ["2001:db8:1:ff23::/64", "fd12:3456:789a:1::/64", "2001:db8::/48", "10.0.0.0/8"].map((prefix) => ({
    interface: "eth0",
    prefix: prefix as Cidr,
  }));
  const links = { ...homeLinks, connected, addresses: [], uplinks: [], delegated: [] };
  expect(herePrefixes(links, [])).toEqual(
    [
      "10.0.0.0/8",
      "2001:db8:1:ff00::/56",
      "2001:db8:1:ff23::/64",
      "2001:db8::/48",
      "fd12:3456:789a:1::/64",
    ].sort() as Cidr[],
  );
});

test("hasIpv6() wants a way out in IPv6 and an address that the internet can answer", () => {
  expect(hasIpv6(homeLinks)).toBe(true);
  expect(hasIpv6({ ...homeLinks, uplinks: homeLinks.uplinks.filter((uplink) => uplink.family === 4) })).toBe(false);
  const only = (address: string, scope: LocalAddress["scope"]) =>
    hasIpv6({
      ...homeLinks,
      addresses: homeLinks.addresses
        .filter((entry) => !entry.address.includes(":"))
        .concat({
          interface: "eth0",
          address: address as IpAddress,
          prefixLength: 64,
          scope,
          temporary: false,
          deprecated: false,
          tentative: false,
        }),
    });
  expect(only("fd00::5", "global")).toBe(false);
  expect(only("fe80::5", "link")).toBe(false);
  expect(only("2a02::5", "global")).toBe(true);
  expect(only("3fff::5", "global")).toBe(true);
});
