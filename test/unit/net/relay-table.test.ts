import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "bun:test";
import { parseEndpoint, parseIp } from "../../../src/base/ip.ts";
import { leaseKey, listedRelay, relayChangeText, relayRuleset } from "../../../src/net/relay-table.ts";

const at = (text: string) => parseEndpoint(text) ?? { address: "0.0.0.0" as never, port: 1 };
const ip = (text: string) => parseIp(text) ?? ("0.0.0.0" as never);
const golden = (name: string): string => readFileSync(join(import.meta.dir, "firewall/golden", name), "utf8");
const S4 = ip("203.0.113.10");
const S6 = ip("2001:db8::10");

describe("relayRuleset()", () => {
  test("is the golden one for IPv4 behind a fence, and for IPv6", () => {
    expect(relayRuleset(S4, ["eth0", "eth1"])).toBe(golden("relay4.nft"));
    expect(relayRuleset(S6, ["eth0"])).toBe(golden("relay6.nft"));
  });

  test("has no fence where the machine forwards anyway", () => {
    expect(relayRuleset(S4, [])).not.toContain("fence");
  });
});

describe("relayChangeText()", () => {
  const link = { port: 40_001, ends: [at("192.0.2.1:1"), at("198.51.100.2:2")] as const };

  test("puts both directions and their leases in, whatever was there", () => {
    expect(relayChangeText([S4], { put: [link] }).split("\n")).toEqual([
      ...["add", "delete", "add"].map(
        (verb) => `${verb} element ip higgs_relay ports { 40001${verb === "add" ? " timeout 600s" : ""} }`,
      ),
      ...["add", "delete", "add"].map(
        (verb) =>
          `${verb} element ip higgs_relay relay_src { 40001${verb === "add" ? " timeout 120s" : ""} : 203.0.113.10 . 40001 }`,
      ),
      ...["add", "delete", "add"].map((verb) => {
        const timeout = verb === "add" ? " timeout 120s" : "";
        return `${verb} element ip higgs_relay relay_dst { 192.0.2.1 . 1 . 40001${timeout} : 198.51.100.2 . 2, 198.51.100.2 . 2 . 40001${timeout} : 192.0.2.1 . 1 }`;
      }),
      ...["add", "delete", "add"].map((verb) => {
        const timeout = verb === "add" ? " timeout 120s" : "";
        return `${verb} element ip higgs_relay lease { 192.0.2.1 . 1 . 40001${timeout}, 198.51.100.2 . 2 . 40001${timeout} }`;
      }),
      "",
    ]);
  });

  test("only leases ends of two families, each in its own table", () => {
    const mixed = { port: 40_001, ends: [at("192.0.2.1:1"), at("[2001:db8:b::2]:2")] as const };
    const text = relayChangeText([S4, S6], { put: [mixed] });
    expect(text).not.toContain("relay_dst");
    expect(text).toContain("ip higgs_relay lease { 192.0.2.1 . 1 . 40001 timeout 120s }");
    expect(text).toContain("ip6 higgs_relay lease { 2001:db8:b::2 . 2 . 40001 timeout 120s }");
  });

  test("takes away before it puts in, and says nothing for nothing", () => {
    const lines = relayChangeText([S4], { remove: [link], put: [{ ...link, port: 40_002 }] }).split("\n");
    const removed = lines.findLastIndex((line) => line.includes("40001"));
    expect(removed).toBeLessThan(lines.findIndex((line) => line.includes("40002")));
    expect(relayChangeText([S4], {})).toBe("");
    expect(relayChangeText([], { put: [link] })).toBe("");
  });
});

describe("listedRelay()", () => {
  test("reads what nft 1.0.6 lists", () => {
    const listed = listedRelay(JSON.parse(readFileSync(join(import.meta.dir, "recorded/relay4.json"), "utf8")));
    expect(listed.ports).toEqual([40_001]);
    expect(listed.leases).toContainEqual({ key: leaseKey(40_001, at("192.0.2.1:1")), packets: 0, bytes: 0 });
    expect(listed.passed).toBe(0);
    const hashes = [...relayRuleset(S4, ["eth0", "eth1"]).matchAll(/comment "(\w+)"/g)].map((match) => match[1]);
    expect(listed.rules.map((rule) => rule.split(" ")[1])).toEqual(hashes);
  });

  test("takes elements and tables of strangers for none", () => {
    const nftables = [
      { metainfo: {} },
      { set: { name: "lease", elem: ["x", { elem: { val: 1 } }] } },
      { set: { name: "ports", elem: [1] } },
    ];
    expect(listedRelay({ nftables })).toEqual({ rules: [], ports: [], leases: [], passed: 0 });
  });
});
