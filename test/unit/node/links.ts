// The links of a home PC behind a router, with both families.
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import type { Links, LocalAddress } from "../../../src/net/links.ts";

function address(text: string, prefixLength: number): LocalAddress {
  return {
    interface: "eth0",
    address: text as IpAddress,
    prefixLength,
    scope: "global",
    temporary: false,
    deprecated: false,
    tentative: false,
  };
}

export const homeLinks: Links = {
  uplinks: [
    { interface: "eth0", family: 4, gateway: "192.168.1.1" as IpAddress, metric: 100 },
    { interface: "eth0", family: 6, gateway: "fe80::1" as IpAddress, metric: 1024 },
  ],
  connected: [
    { interface: "eth0", prefix: "192.168.1.0/24" as Cidr },
    { interface: "eth0", prefix: "2001:db8:1:2::/64" as Cidr },
  ],
  addresses: [address("192.168.1.20", 24), address("2001:db8:1:2::20", 64)],
  delegated: ["2001:db8:9::/48" as Cidr],
  mtus: new Map([["eth0", 1500]]),
};
