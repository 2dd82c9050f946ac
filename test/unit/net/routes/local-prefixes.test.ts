// Which bridges and prefixes stay outside the tunnel.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { allowedLanPrefixes, bridgesWithoutUplink } from "../../../../src/net/routes/local-prefixes.ts";
import { cidr } from "../firewall/exit-policy.ts";

const links: unknown = JSON.parse(readFileSync(join(import.meta.dir, "recorded/links-bridges.json"), "utf8"));

describe("bridgesWithoutUplink()", () => {
  test("finds those of containers and virtual machines, and not one with a cable in it", () => {
    expect(bridgesWithoutUplink(links)).toEqual(["docker0", "virbr0"]);
  });

  test("never takes a bridge that has the default route", () => {
    expect(bridgesWithoutUplink(links, { uplinks: ["docker0"] })).toEqual(["virbr0"]);
  });
});

describe("allowedLanPrefixes()", () => {
  test("are private and no larger than one site", () => {
    const lan = ["192.168.7.0/24", "10.1.0.0/16", "172.16.0.0/16", "fd00:1:2::/48", "fd00:1:2:3::/64"].map(cidr);
    const not = [
      "10.0.0.0/8",
      "203.0.113.0/24",
      "0.0.0.0/0",
      "172.16.0.0/12",
      "fc00::/7",
      "2001:db8::/64",
      "fe80::/64",
    ].map(cidr);
    expect(allowedLanPrefixes([...lan, ...not])).toEqual(lan);
  });
});
