// A whole policy of a client's routes, as the tests use it.
import type { ClientRoutesPolicy } from "../../../../src/net/routes/client-routes.ts";
import type { RouteNumbers } from "../../../../src/net/routes/rules.ts";
import { cidr, ip } from "../firewall/exit-policy.ts";

export const NUMBERS: RouteNumbers = { first: 5210, last: 5270, table: 5270, mark: "fwmark 0x68000/0xff000" };

export const POLICY: ClientRoutesPolicy = {
  interface: "higgs0",
  families: { 4: "tunnel", 6: "tunnel" },
  tunnelPrefixes: [cidr("10.83.0.0/16"), cidr("fd83:1:2::/48")],
  carrier: [
    { address: ip("203.0.113.10"), port: 443 },
    { address: ip("2001:db8:10::10"), port: 8443 },
  ],
  uid: 997,
  discoveryPort: 51821,
  throwPrefixes: [cidr("172.17.0.0/16")],
};
