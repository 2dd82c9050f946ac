// Rules and routes as lines: from a policy, from what ip lists, and the way from one to the other.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { listedRoutes, listedRules } from "../../../../src/net/routes/listed-rules.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { reconcile, type RouteNumbers, routeNumbers, wantedLines } from "../../../../src/net/routes/rules.ts";
import { NUMBERS, POLICY } from "./routes-policy.ts";

const recorded = (name: string): unknown =>
  JSON.parse(readFileSync(join(import.meta.dir, "recorded", `${name}.json`), "utf8"));

describe("wantedLines()", () => {
  test("sends IPv4 into the tunnel but for WireGuard, carrier, discovery and bridges", () => {
    expect(wantedLines(POLICY, { numbers: NUMBERS, family: 4 })).toEqual({
      rules: [
        "pref 5210 fwmark 0x68000/0xff000 lookup main",
        "pref 5220 to 203.0.113.10 iif lo ipproto 6 dport 443 uidrange 997-997 lookup main",
        "pref 5221 iif lo ipproto 17 sport 51821 uidrange 997-997 lookup main",
        "pref 5222 iif lo ipproto 17 sport 68 dport 67 lookup main",
        "pref 5250 fwmark 0x68000/0xff000 unreachable",
        "pref 5270 lookup 5270",
      ],
      routes: [
        "unreachable default metric 4278198272",
        "throw 172.17.0.0/16",
        "10.83.0.0/16 dev higgs0",
        "default dev higgs0",
      ],
    });
  });

  test("refuses IPv6 but for the network's own prefix", () => {
    const policy = { ...POLICY, families: { 4: "tunnel", 6: "refuse" } } as const;
    expect(wantedLines(policy, { numbers: NUMBERS, family: 6 }).routes).toEqual([
      "unreachable default metric 4278198272",
      "fd83:1:2::/48 dev higgs0",
    ]);
  });

  test("without an exit leaves everything but the network's own prefix alone, and that never goes outside", () => {
    const policy = { ...POLICY, families: { 4: "own", 6: "own" }, throwPrefixes: [] } as const;
    expect(wantedLines(policy, { numbers: NUMBERS, family: 4 }).routes).toEqual([
      "unreachable 10.83.0.0/16 metric 4278198272",
      "10.83.0.0/16 dev higgs0",
    ]);
  });

  test("has no rule for a discovery socket that is not there, and takes no name that is no interface's", () => {
    const { discoveryPort: _, ...policy } = POLICY;
    expect(wantedLines(policy, { numbers: NUMBERS, family: 4 }).rules.join()).not.toContain("udp");
    expect(() => wantedLines({ ...POLICY, interface: "a\nrule" }, { numbers: NUMBERS, family: 4 })).toThrow(
      "no interface",
    );
  });
});

describe("listedRules(), listedRoutes()", () => {
  for (const family of [4, 6] as const) {
    for (const names of ["", "-names"]) {
      test(`read back what was wanted, and overlook another program's rules, from ip${names === "" ? " -N" : ""} -${family}`, () => {
        const wanted = wantedLines(POLICY, { numbers: NUMBERS, family });
        expect([...listedRules(recorded(`rules${family}${names}`), NUMBERS)].sort()).toEqual([...wanted.rules].sort());
        expect([...listedRoutes(recorded(`routes${family}${names}`))].sort()).toEqual([...wanted.routes].sort());
      });
    }
  }
});

describe("reconcile()", () => {
  const wanted = wantedLines(POLICY, { numbers: NUMBERS, family: 4 });

  test("does nothing when everything is as wanted", () => {
    expect(reconcile(wanted, { listed: wanted, numbers: NUMBERS })).toEqual([]);
  });

  test("adds exceptions, then the table from its end, then the rule that uses it", () => {
    expect(reconcile(wanted, { listed: { rules: [], routes: [] }, numbers: NUMBERS })).toEqual([
      "rule add pref 5210 fwmark 0x68000/0xff000 lookup main",
      "rule add pref 5220 to 203.0.113.10 iif lo ipproto 6 dport 443 uidrange 997-997 lookup main",
      "rule add pref 5221 iif lo ipproto 17 sport 51821 uidrange 997-997 lookup main",
      "rule add pref 5222 iif lo ipproto 17 sport 68 dport 67 lookup main",
      "rule add pref 5250 fwmark 0x68000/0xff000 unreachable",
      "route add unreachable default metric 4278198272 table 5270",
      "route add throw 172.17.0.0/16 table 5270",
      "route add 10.83.0.0/16 dev higgs0 table 5270",
      "route add default dev higgs0 table 5270",
      "rule add pref 5270 lookup 5270",
    ]);
  });

  test("puts the end in place before it takes a stranger's route away, and new exceptions before old ones go", () => {
    const listed = {
      rules: [
        "pref 5220 to 203.0.113.9 iif lo ipproto 6 dport 443 uidrange 997-997 lookup main",
        ...wanted.rules.filter((line) => !line.includes("203.0.113.10")),
      ],
      routes: ["default via 192.168.7.1 dev eth0", "throw 172.17.0.0/16", "10.83.0.0/16 dev higgs0"],
    };
    expect(reconcile(wanted, { listed, numbers: NUMBERS })).toEqual([
      "rule add pref 5220 to 203.0.113.10 iif lo ipproto 6 dport 443 uidrange 997-997 lookup main",
      "route add unreachable default metric 4278198272 table 5270",
      "route del default via 192.168.7.1 dev eth0 table 5270",
      "route add default dev higgs0 table 5270",
      "rule del pref 5220 to 203.0.113.9 iif lo ipproto 6 dport 443 uidrange 997-997 lookup main",
    ]);
  });
});

describe("routeNumbers()", () => {
  test("are the client's alone", () => {
    expect(routeNumbers(IDENTIFIERS.client)).toEqual(NUMBERS satisfies RouteNumbers);
    expect(routeNumbers(IDENTIFIERS.node)).toBeNull();
  });
});
