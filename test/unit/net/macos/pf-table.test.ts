// The rules of pf in each situation, as golden files.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ClientFirewallPolicy, Nearby } from "../../../../src/net/firewall/client.ts";
import { pfLabels, pfRules, pfText } from "../../../../src/net/firewall/pf-table.ts";
import { LAN_ALWAYS } from "../../../../src/net/local-networks.ts";
import { ALONE, POLICIES, TUNNEL } from "../firewall/client-policies.ts";
import { cidr } from "../firewall/exit-policy.ts";
import { OWN_MAC } from "./mac-scene.ts";

const AT_HOME: Nearby = { bridges: ["bridge100"], lan: [cidr("192.168.7.0/24"), cidr("fd66:1::/64"), ...LAN_ALWAYS] };
const open = { tunnel: TUNNEL, own: OWN_MAC };

/** By the name of the golden file; with lockdown or without, a connected client has the same rules. */
const CLOSED: Readonly<Record<string, ClientFirewallPolicy>> = {
  connecting: { kind: "connecting", ...open, near: ALONE },
  "connecting-lan": { kind: "connecting", ...open, near: AT_HOME },
  connected: { kind: "connected", ...open, near: ALONE },
  "connected-lan": { kind: "connected", ...open, near: AT_HOME },
  disconnecting: { kind: "disconnecting", near: ALONE },
  "disconnecting-lan": { kind: "disconnecting", near: AT_HOME },
  blocked: { kind: "blocked", near: ALONE },
  "blocked-lan": { kind: "blocked", near: AT_HOME },
};

describe("pfRules()", () => {
  for (const [name, policy] of Object.entries(CLOSED)) {
    test(`is what it was: ${name}`, () => {
      const device = policy.kind === "connected" ? "utun7" : null;
      const text = `${(pfRules(policy, device) ?? []).join("\n")}\n`;
      expect(text).toBe(readFileSync(join(import.meta.dir, "golden", `pf-${name}.txt`), "utf8"));
    });
  }

  test("has none for a client that is disconnected and open, nor for one without an exit", () => {
    expect(pfRules({ kind: "disconnected" }, null)).toBeNull();
    expect(pfRules(POLICIES["exitless"] ?? { kind: "disconnected" }, "utun7")).toBeNull();
  });

  test("closes the same while it connects and when it is connected, but for the tunnel", () => {
    const connected = pfRules(CLOSED["connected"] ?? { kind: "disconnected" }, "utun7") ?? [];
    const connecting = pfRules(CLOSED["connecting"] ?? { kind: "disconnected" }, null) ?? [];
    expect(connected.filter((rule) => !connecting.includes(rule))).toEqual(["pass quick on utun7 all no state"]);
  });

  test("decides each packet by one quick rule, keeps no state, and ends in refusals both ways", () => {
    for (const policy of Object.values(CLOSED)) {
      const rules = pfRules(policy, "utun7") ?? [];
      expect(rules.filter((rule) => !rule.includes(" quick "))).toEqual([]);
      expect(rules.filter((rule) => rule.startsWith("pass") && !rule.includes(" no state"))).toEqual([]);
      expect(rules.slice(-2)).toEqual(["block return out quick all", "block drop in quick all"]);
    }
  });

  test("refuses a name that is no interface's", () => {
    expect(() => pfRules(CLOSED["connected"] ?? { kind: "disconnected" }, "utun7 all\npass")).toThrow(
      "no interface name",
    );
    expect(() => pfRules({ kind: "blocked", near: { bridges: ["x\npass quick all"], lan: null } }, null)).toThrow(
      "no interface name",
    );
  });
});

describe("pfText()", () => {
  test("gives each rule a label that no other rule and no other text has, within what pf keeps of one", () => {
    const labels = pfLabels(["pass", "pass", "block"]);
    expect(new Set([...labels, ...pfLabels(["pass", "block", "pass"])]).size).toBe(6);
    expect(labels.every((label) => label.length < 64)).toBe(true);
    expect(pfText(["pass quick all"])).toMatch(/^pass quick all label "higgs-[0-9a-f]{16}-1"\n$/);
  });
});
