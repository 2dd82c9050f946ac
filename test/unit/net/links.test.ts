// Tests of reading the machine's links from what `ip -j` printed on a machine with many of them.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import type { Exec } from "../../../src/net/exec.ts";
import { type Links, linksFrom, LinksUnreadable, prefixesFrom, readLinks } from "../../../src/net/links.ts";

/**
 * Recorded from iproute2 6.1.0: eth0 with two addresses, a VLAN eth0.10, br-lan, a PPP link without a gateway, our own higgs0,
 * defaults of several metrics and kinds, and IPv6 routes from advertisements.
 */
function recorded(name: string): string {
  return readFileSync(join(import.meta.dir, "recorded", `home-${name}.json`), "utf8");
}

function home(): Links {
  return linksFrom({ addresses: recorded("addresses"), routes4: recorded("routes4"), routes6: recorded("routes6") });
}

function from(json: {
  readonly addresses?: unknown[];
  readonly routes4?: unknown[];
  readonly routes6?: unknown[];
}): Links {
  const { addresses = [], routes4 = [], routes6 = [] } = json;
  return linksFrom({
    addresses: JSON.stringify(addresses),
    routes4: JSON.stringify(routes4),
    routes6: JSON.stringify(routes6),
  });
}

describe("linksFrom() uplinks", () => {
  test("lists every default route but our own, the best metric first", () => {
    expect(home().uplinks).toEqual([
      { interface: "ppp0", family: 4, gateway: null, metric: 50 },
      { interface: "eth0", family: 4, gateway: "192.168.1.1" as IpAddress, metric: 100 },
      { interface: "eth0.10", family: 4, gateway: "10.5.0.1" as IpAddress, metric: 400 },
      { interface: "eth0.10", family: 6, gateway: "fe80::9" as IpAddress, metric: 512 },
      { interface: "eth0", family: 6, gateway: "fe80::1" as IpAddress, metric: 1024 },
      { interface: "br-lan", family: 6, gateway: "fe80::2" as IpAddress, metric: 1024 },
    ]);
  });

  test("takes a default in two halves for one, as tunnels of other programs make it", () => {
    const halves = ["0.0.0.0/1", "128.0.0.0/1"].map((dst) => ({ dst, dev: "tun0", flags: [] }));
    expect(from({ routes4: halves }).uplinks).toEqual([{ interface: "tun0", family: 4, gateway: null, metric: 0 }]);
  });

  test("knows an IPv4 route by an IPv6 gateway", () => {
    const via = { family: "inet6", host: "fe80::5" };
    expect(from({ routes4: [{ dst: "default", via, dev: "eth0", flags: [] }] }).uplinks).toEqual([
      { interface: "eth0", family: 4, gateway: "fe80::5" as IpAddress, metric: 0 },
    ]);
  });

  test("leaves out dead hops, unreachable defaults and the roles' own interfaces", () => {
    const routes4 = [
      { dst: "default", dev: "higgs0", flags: [] },
      { dst: "default", dev: "higgsn0", flags: [] },
      { type: "unreachable", dst: "default", dev: "lo", flags: [] },
      { dst: "default", gateway: "10.0.0.1", dev: "eth1", flags: ["dead", "linkdown"] },
    ];
    expect(from({ routes4 }).uplinks).toEqual([]);
  });
});

describe("linksFrom() networks and addresses", () => {
  test("lists connected prefixes of both families, and no link-local ones", () => {
    expect(home().connected.map((one) => `${one.prefix} ${one.interface}`)).toEqual([
      "192.168.1.0/24 eth0",
      "2001:db8:7:1::/64 eth0",
      "192.168.50.0/24 br-lan",
      "10.5.0.0/24 eth0.10",
      "100.70.0.2/32 ppp0",
      "100.64.0.1/32 ppp0",
    ]);
  });

  test("lists a prefix that is only routed on the link, as an advertisement may say", () => {
    const routes6 = [
      { dst: "2001:db8:5::/64", dev: "eth0", protocol: "ra", metric: 100, flags: [] },
      { dst: "2001:db8:6::/64", gateway: "fe80::1", dev: "eth0", protocol: "ra", metric: 100, flags: [] },
    ];
    expect(from({ routes6 }).connected).toEqual([{ interface: "eth0", prefix: "2001:db8:5::/64" as Cidr }]);
  });

  test("lists the addresses of a link, and whether they will do", () => {
    const eth0 = home().addresses.filter((one) => one.interface === "eth0");
    expect(eth0.map((one) => `${one.address}/${one.prefixLength} ${one.scope}`)).toEqual([
      "192.168.1.10/24 global",
      "192.168.1.11/24 global",
      "2001:db8:7:1::10/64 global",
      "fe80::a488:abff:fe0c:1309/64 link",
    ]);
    const base = { local: "2001:db8::1", prefixlen: 64, scope: "global" };
    const marked = [
      { temporary: true },
      { deprecated: true },
      { tentative: true },
      { dadfailed: true, tentative: true },
    ];
    const addresses = [{ ifname: "wlan0", mtu: 1500, addr_info: marked.map((mark) => ({ ...base, ...mark })) }];
    const seen = from({ addresses }).addresses.map((one) => [one.temporary, one.deprecated, one.tentative]);
    expect(seen).toEqual([
      [true, false, false],
      [false, true, false],
      [false, false, true],
      [false, false, true],
    ]);
  });

  test("knows each link's MTU and the delegated prefix, and nothing of lo and higgs0", () => {
    expect([...home().mtus]).toEqual(["peer0", "eth0", "br-lan", "vp", "eth0.10", "ppp0"].map((name) => [name, 1500]));
    expect(home().delegated).toEqual(["2001:db8:7::/56" as Cidr]);
    expect(home().addresses.some((one) => /^(lo|higgs)/.test(one.interface))).toBeFalse();
  });

  test("takes what old versions of ip print for nothing, and refuses what is not theirs", () => {
    const nothing = { uplinks: [], connected: [], addresses: [], delegated: [], mtus: new Map() };
    expect(linksFrom({ addresses: "[{},{}]", routes4: "", routes6: "[ ]\n" })).toEqual(nothing);
    for (const text of ["{", "{}", '[{"dev":"eth0"}]']) {
      expect(() => linksFrom({ addresses: "[]", routes4: text, routes6: "[]" })).toThrow(LinksUnreadable);
    }
  });
});

describe("readLinks()", () => {
  function answering(answers: Readonly<Record<string, { code: number; stdout: string }>>): Exec {
    return {
      async run(argv) {
        const answer = answers[argv.join(" ")];
        if (answer === undefined) throw new Error(`unknown command: ${argv.join(" ")}`);
        return {
          ...answer,
          stderr: answer.code === 0 ? "" : "RTNETLINK answers: Address family not supported by protocol",
        };
      },
    };
  }
  const answers = {
    "ip -j addr show": { code: 0, stdout: recorded("addresses") },
    "ip -j -4 route show table main": { code: 0, stdout: recorded("routes4") },
    "ip -j -6 route show table main": { code: 0, stdout: recorded("routes6") },
  };
  const signal = new AbortController().signal;

  test("asks ip for addresses and the main tables of both families", async () => {
    expect(await readLinks(answering(answers), signal)).toEqual(home());
  });

  test("does without IPv6 where the kernel has none", async () => {
    const without = { ...answers, "ip -j -6 route show table main": { code: 2, stdout: "" } };
    const links = await readLinks(answering(without), signal);
    expect(links.uplinks.every((uplink) => uplink.family === 4)).toBeTrue();
    expect(links.uplinks).toHaveLength(3);
  });
});

describe("prefixesFrom()", () => {
  test("has what a gateway leads to as well, but no default, no link-local network and no tunnel of ours", () => {
    const routes4 = [
      { dst: "default", gateway: "192.168.1.1", dev: "eth0", flags: [] },
      { dst: "0.0.0.0/1", dev: "tun0", flags: [] },
      { dst: "10.20.0.0/16", gateway: "192.168.1.2", dev: "eth0", flags: [] },
      { dst: "172.16.9.1", nexthops: [{ gateway: "192.168.1.3", dev: "eth0", flags: [] }], flags: [] },
      { dst: "192.168.1.0/24", dev: "eth0", flags: [] },
      { dst: "169.254.0.0/16", dev: "eth0", flags: [] },
      { dst: "10.99.0.0/16", dev: "higgsn0", flags: [] },
      { type: "unreachable", dst: "10.1.0.0/16", flags: [] },
    ];
    const json = { addresses: "[]", routes4: JSON.stringify(routes4), routes6: "[]" };
    expect(prefixesFrom(json)).toEqual([
      { interface: "eth0", prefix: "192.168.1.0/24" as Cidr },
      { interface: "eth0", prefix: "10.20.0.0/16" as Cidr },
      { interface: "eth0", prefix: "172.16.9.1/32" as Cidr },
    ]);
  });
});
