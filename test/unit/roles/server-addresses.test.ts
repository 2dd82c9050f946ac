import { describe, expect, test } from "bun:test";
import { type Config, resolveConfig } from "../../../src/roles/config.ts";
import { listenAddress, publicNames, stunHost, trustedProxies } from "../../../src/roles/server-addresses.ts";
import { callerAddress } from "../../../src/server/caller-address.ts";

async function configOf(flags: Record<string, string | readonly string[]>): Promise<Config<"server">> {
  return (await resolveConfig("server", flags, {})).config;
}

const found = (...addresses: readonly string[]) => addresses.map((address) => ({ address, internal: false }));
const hosts = (names: readonly { readonly host: string }[]): string[] => names.map((name) => name.host);

describe("trustedProxies()", () => {
  test("has the loopback with --tls off: all machines were the caller 127.0.0.1, and used each other's limits up", async () => {
    const trusted = trustedProxies(await configOf({ tls: "off" }));
    expect(trusted).toEqual(["127.0.0.0/8", "::1/128"] as never);
    for (const proxy of ["127.0.0.1", "::1", "::ffff:127.0.0.1"]) {
      expect(callerAddress(proxy, "198.51.100.1, 203.0.113.5", trusted)).toBe("203.0.113.5" as never);
    }
    expect(callerAddress("192.0.2.7", "203.0.113.5", trusted)).toBe("192.0.2.7" as never);
  });

  test("keeps those that were named beside it, and has no others with TLS of our own", async () => {
    const named = { trustedProxy: ["192.0.2.0/24", "2001:db8::1"] };
    const expected = ["192.0.2.0/24", "2001:db8::1/128"];
    expect(trustedProxies(await configOf({ ...named, tls: "off" })) as readonly string[]).toEqual([
      "127.0.0.0/8",
      "::1/128",
      ...expected,
    ]);
    expect(trustedProxies(await configOf(named)) as readonly string[]).toEqual(expected);
    expect(trustedProxies(await configOf({}))).toEqual([]);
  });

  test("refuses what is no prefix, and everybody", async () => {
    for (const trustedProxy of [["proxy"], ["0.0.0.0/0"], ["192.0.2.1/33"]]) {
      const config = await configOf({ trustedProxy });
      expect(() => trustedProxies(config)).toThrow(expect.objectContaining({ code: "usage" }));
    }
  });
});

test("stunHost() is all addresses with --tls off: STUN listened where only the proxy is", async () => {
  const behind = await configOf({ tls: "off", listen: "[::]:8443" });
  expect([listenAddress(behind), stunHost(behind)]).toEqual([{ host: "127.0.0.1", port: 8443 }, "::"]);
  expect(stunHost(await configOf({}))).toBe("::");
  expect(stunHost(await configOf({ listen: "192.0.2.1:443" }))).toBe("192.0.2.1");
});

describe("publicNames()", () => {
  test("names sixteen at most, IPv4 first: a proof with more was refused by every machine", async () => {
    const six = Array.from({ length: 20 }, (_, i) => `2001:db8::${(i + 1).toString(16)}`);
    const names = publicNames(await configOf({}), 443, found(...six, "203.0.113.5", "10.0.0.1", "198.51.100.1"));
    expect(hosts(names)).toEqual(["203.0.113.5", "198.51.100.1", ...six.slice(0, 14)]);
    expect(names.every((name) => name.port === 443)).toBe(true);
  });

  test("takes private addresses only where there are no others, and none of a link or of loopback", async () => {
    const config = await configOf({});
    const home = found("fd00::1", "192.168.1.2", "fe80::1", "febf::1");
    expect(hosts(publicNames(config, 443, home))).toEqual(["192.168.1.2", "fd00::1"]);
    expect(hosts(publicNames(config, 443, [...home, ...found("2001:db8::1")]))).toEqual(["2001:db8::1"]);
    expect(hosts(publicNames(config, 443, found("10.0.0.1", "10.0.0.1")))).toEqual(["10.0.0.1"]);
    const none = [{ address: "127.0.0.1", internal: true }, ...found("fe80::1")];
    expect(() => publicNames(config, 443, none)).toThrow(expect.objectContaining({ code: "usage" }));
  });

  test("takes --public alone, with the proxy's port where it has none of its own", async () => {
    const named = { public: "vpn.example" };
    expect(publicNames(await configOf(named), 8443, found("203.0.113.5"))).toEqual([
      { host: "vpn.example", port: 8443 },
    ]);
    expect(publicNames(await configOf({ ...named, tls: "off" }), 8443, [])).toEqual([
      { host: "vpn.example", port: 443 },
    ]);
  });
});
