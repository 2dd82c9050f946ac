// A client's routes over an ip that remembers.
import { describe, expect, test } from "bun:test";
import { errorText } from "../../../../src/base/errors.ts";
import { silentLogger } from "../../../../src/base/log.ts";
import { ToolFailed } from "../../../../src/net/exec.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { linuxClientRoutes, removeRulesAndRoutes } from "../../../../src/net/routes/linux.ts";
import { cidr } from "../firewall/exit-policy.ts";
import { memoryJournal } from "../memory-journal.ts";
import { memorySysctl } from "../memory-sysctl.ts";
import { failureOf } from "../../support/failure.ts";
import { FakeIp } from "./fake-ip.ts";
import { POLICY } from "./routes-policy.ts";

const { signal } = new AbortController();
const KERNEL = { "net.ipv4.conf.all.src_valid_mark": "0", "net.ipv4.conf.all.arp_ignore": "0" };

function client(kernel: Readonly<Record<string, string>> = KERNEL) {
  const ip = new FakeIp();
  const journal = memoryJournal();
  const sysctl = memorySysctl(kernel);
  const deps = { exec: ip, journal, identifiers: IDENTIFIERS.client, sysctl, log: silentLogger };
  return { ip, journal, sysctl, routes: linuxClientRoutes(deps) };
}

/** Another program's rules with our preferences. */
const STRANGERS = ["pref 5210 fwmark 0x80000/0xff0000 lookup main", "pref 5270 lookup 52"];

const WHOLE = `-4 rule pref 5210 fwmark 0x68000/0xff000 lookup main
-4 rule pref 5220 to 203.0.113.10 iif lo ipproto 6 dport 443 uidrange 997-997 lookup main
-4 rule pref 5221 iif lo ipproto 17 sport 51821 uidrange 997-997 lookup main
-4 rule pref 5222 iif lo ipproto 17 sport 68 dport 67 lookup main
-4 rule pref 5250 fwmark 0x68000/0xff000 unreachable
-4 rule pref 5270 lookup 5270
-4 route unreachable default metric 4278198272
-4 route throw 172.17.0.0/16
-4 route 10.83.0.0/16 dev higgs0
-4 route default dev higgs0
-6 rule pref 5210 fwmark 0x68000/0xff000 lookup main
-6 rule pref 5220 to 2001:db8:10::10 iif lo ipproto 6 dport 8443 uidrange 997-997 lookup main
-6 rule pref 5221 iif lo ipproto 17 sport 51821 uidrange 997-997 lookup main
-6 rule pref 5250 fwmark 0x68000/0xff000 unreachable
-6 rule pref 5270 lookup 5270
-6 route unreachable default metric 4278198272
-6 route fd83:1:2::/48 dev higgs0
-6 route default dev higgs0`;

describe("linuxClientRoutes()", () => {
  test("puts rules, routes and settings in place, once", async () => {
    const { ip, journal, sysctl, routes } = client();
    expect(await routes.apply(POLICY, signal)).toBe(true);
    expect(ip.printed()).toBe(WHOLE);
    expect(journal.printed()).toBe("ip-rules ip-routes");
    expect(sysctl.written).toEqual(["net.ipv4.conf.all.src_valid_mark=1", "net.ipv4.conf.all.arp_ignore=2"]);
    const { length } = ip.done;
    expect(await routes.apply(POLICY, signal)).toBe(false);
    expect(ip.done.length).toBe(length);
  });

  test("gives single peers their own size, in one step, for every later policy, and back", async () => {
    const { ip: fake, routes } = client();
    const exit = {
      prefixes: [cidr("0.0.0.0/0"), cidr("::/0"), cidr("10.83.0.9/32"), cidr("fd83:1:2::9/128")],
      mtu: 1300,
    };
    await routes.peerMtus.apply([exit], signal);
    expect(fake.printed()).toBe("");
    await routes.apply(POLICY, signal);
    const sized = WHOLE.replaceAll(/^(-\d route default dev higgs0)$/gm, "$1 mtu 1300");
    expect(fake.printed()).toBe(
      sized.replace("-6 rule pref 5210", "-4 route 10.83.0.9 dev higgs0 mtu 1300\n-6 rule pref 5210") +
        "\n-6 route fd83:1:2::9 dev higgs0 mtu 1300",
    );
    fake.done.length = 0;
    await routes.peerMtus.apply([{ ...exit, mtu: 1290 }], signal);
    expect(fake.done).toEqual([
      "-4 route replace default dev higgs0 mtu 1290 table 5270",
      "-4 route replace 10.83.0.9 dev higgs0 mtu 1290 table 5270",
      "-6 route replace default dev higgs0 mtu 1290 table 5270",
      "-6 route replace fd83:1:2::9 dev higgs0 mtu 1290 table 5270",
    ]);
    await routes.peerMtus.apply([], signal);
    expect(fake.printed()).toBe(WHOLE);
  });

  test("does not lead a peer's prefixes into the tunnel that do not belong there, and takes no size below 1280", async () => {
    const { ip: fake, routes } = client();
    await routes.apply({ ...POLICY, families: { 4: "tunnel", 6: "refuse" } }, signal);
    const before = fake.printed();
    await routes.peerMtus.apply([{ prefixes: [cidr("::/0"), cidr("192.168.1.0/24")], mtu: 1300 }], signal);
    expect(fake.printed()).toBe(before);
    const small = routes.peerMtus.apply([{ prefixes: [], mtu: 1279 }], signal);
    expect(await small.catch((thrown: unknown) => thrown)).toMatchObject({ code: "mtu-refused" });
  });

  test("brings back what somebody flushed, and nothing else", async () => {
    const { ip, routes } = client();
    await routes.apply(POLICY, signal);
    ip.families[4].routes.splice(-1);
    ip.families[6].rules.splice(0, 1);
    ip.done.length = 0;
    expect(await routes.apply(POLICY, signal)).toBe(true);
    expect(ip.done).toEqual([
      "-4 route add default dev higgs0 table 5270",
      "-6 rule add pref 5210 fwmark 0x68000/0xff000 lookup main",
    ]);
  });

  test("leaves no moment in which the tunnel's rule is there and its table has no end", async () => {
    const { ip, routes } = client();
    await routes.apply(POLICY, signal);
    await routes.apply({ ...POLICY, families: { 4: "tunnel", 6: "refuse" } }, signal);
    await routes.apply({ ...POLICY, carrier: [], throwPrefixes: [] }, signal);
    await routes.reset(signal);
    const state = new Set<string>();
    for (const line of ip.done.filter((text) => text.startsWith("-4"))) {
      if (line.includes(" add ")) state.add(line.replace(" add ", " "));
      else state.delete(line.replace(" del ", " "));
      const diverted = state.has("-4 rule pref 5270 lookup 5270");
      expect(!diverted || state.has("-4 route unreachable default metric 4278198272 table 5270")).toBe(true);
      expect(!diverted || state.has("-4 rule pref 5210 fwmark 0x68000/0xff000 lookup main")).toBe(true);
    }
  });

  test("works on a kernel without IPv6", async () => {
    const { ip, routes } = client();
    ip.without.ipv6 = true;
    expect(await routes.apply(POLICY, signal)).toBe(true);
    expect(ip.printed()).toBe(
      WHOLE.split("\n")
        .filter((line) => line.startsWith("-4"))
        .join("\n"),
    );
    await routes.reset(signal);
    expect(ip.printed()).toBe("");
  });

  test("refuses IPv6 where it is switched off on the tunnel's interface", async () => {
    const { ip, routes } = client();
    ip.without.ipv6OnDevice = true;
    await routes.apply(POLICY, signal);
    expect(ip.families[6].routes).toEqual(["unreachable default metric 4278198272"]);
    expect(await routes.apply(POLICY, signal)).toBe(false);
  });

  test("goes on where settings may not be written, and writes none that do already", async () => {
    const { sysctl, ip, routes } = client({ ...KERNEL, "net.ipv4.conf.all.arp_ignore": "1" });
    sysctl.refuses.add("net.ipv4.conf.all.src_valid_mark");
    await routes.apply(POLICY, signal);
    expect(sysctl.written).toEqual([]);
    expect(ip.printed()).toBe(WHOLE);
  });

  test("takes away its own, leaves another program's rules alone, and twice is harmless", async () => {
    const { ip, journal, routes } = client();
    ip.families[4].rules.push(...STRANGERS);
    await routes.apply(POLICY, signal);
    await routes.reset(signal);
    await routes.reset(signal);
    expect(ip.printed()).toBe(STRANGERS.map((line) => `-4 rule ${line}`).join("\n"));
    expect(journal.printed()).toBe("");
  });

  test("is made for a role that routes only", () => {
    const deps = { exec: new FakeIp(), journal: memoryJournal(), sysctl: memorySysctl({}), log: silentLogger };
    expect(() => linuxClientRoutes({ ...deps, identifiers: IDENTIFIERS.node })).toThrow("its role has none");
  });
});

describe("removeRulesAndRoutes()", () => {
  test("needs no memory, and says whether there was anything", async () => {
    const { ip, routes } = client();
    expect(await removeRulesAndRoutes(ip, IDENTIFIERS.client, signal)).toBe(false);
    await routes.apply(POLICY, signal);
    expect(await removeRulesAndRoutes(ip, IDENTIFIERS.client, signal)).toBe(true);
    expect(ip.printed()).toBe("");
    expect(await removeRulesAndRoutes(ip, IDENTIFIERS.node, signal)).toBe(false);
  });

  test("bug: a route that left with its interface meanwhile kept all the rest from being taken away", async () => {
    const { ip, routes } = client();
    await routes.apply(POLICY, signal);
    ip.beforeBatch = (family) => {
      ip.families[family].routes = ip.families[family].routes.filter((line) => !line.includes("dev higgs0"));
    };
    await routes.reset(signal);
    expect(ip.printed()).toBe("");
  });

  test("bug: rules of IPv4 that could not be taken away kept those of IPv6", async () => {
    const { ip, routes } = client();
    await routes.apply(POLICY, signal);
    ip.beforeBatch = (family) => (family === 4 ? "RTNETLINK answers: Operation not permitted" : undefined);
    expect(await failureOf(removeRulesAndRoutes(ip, IDENTIFIERS.client, signal))).toBeInstanceOf(ToolFailed);
    expect(ip.families[4].rules).not.toEqual([]);
    expect([...ip.families[6].rules, ...ip.families[6].routes]).toEqual([]);
  });

  test("fails with the tool's own words where nothing gets less", async () => {
    const { ip, routes } = client();
    await routes.apply(POLICY, signal);
    ip.beforeBatch = () => "RTNETLINK answers: Operation not permitted";
    expect(errorText(await failureOf(removeRulesAndRoutes(ip, IDENTIFIERS.client, signal)))).toContain(
      "Operation not permitted",
    );
    expect(ip.printed()).toBe(WHOLE);
  });
});
