// docs/security-states.md for macOS: each cell of its table, by the routes and rules that the client would have there. Never seen on a real Mac.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import type { ClientFirewallPolicy, Nearby } from "../../../../src/net/firewall/client.ts";
import { LAN_ALWAYS } from "../../../../src/net/local-networks.ts";
import { TUNNEL } from "../firewall/client-policies.ts";
import { cidr } from "../firewall/exit-policy.ts";
import { documentedStates } from "../documented-states.ts";
import { FakeMac } from "./fake-mac.ts";
import { clientOf, comeUp, OWN_MAC, ROUTES, systemsOf, wanted } from "./mac-scene.ts";
import { CLASSES, type Verdict, verdictOf } from "./verdicts.ts";

const { signal } = new AbortController();
const ALONE: Nearby = { bridges: ["bridge100"], lan: null };
const AT_HOME: Nearby = { bridges: ["bridge100"], lan: [cidr("192.168.7.0/24"), ...LAN_ALWAYS] };

let stateDir = "";
beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "higgs-mac-"));
});
afterEach(() => rmSync(stateDir, { recursive: true }));

const connected = async (mac: FakeMac, near: Nearby): Promise<void> => {
  const os = await clientOf(mac, stateDir);
  await comeUp(os, false);
  await os.clientFirewall.apply(wanted("connected", near), signal);
};
const alone = async (mac: FakeMac, policy: ClientFirewallPolicy): Promise<void> => {
  await (await clientOf(mac, stateDir)).clientFirewall.apply({ policy, egress: [] }, signal);
};
const blocked = async (mac: FakeMac, lan: boolean): Promise<void> => {
  const lock = systemsOf(mac).clientLock({ stateDir, log: silentLogger });
  await lock.block({ lockdown: true, lan, paranoid: false }, signal);
};
/** A tunnel without an exit: only the network's own addresses enter it. */
const exitless = async (mac: FakeMac, policy: ClientFirewallPolicy): Promise<void> => {
  const os = await clientOf(mac, stateDir);
  await comeUp(os, false);
  await os.clientRoutes.apply({ ...ROUTES, families: { 4: "own", 6: "own" } }, signal);
  await os.clientFirewall.apply({ policy, egress: [] }, signal);
};

/** How the fake Mac comes into each situation of the document. */
const ENTER: Readonly<Record<string, (mac: FakeMac) => Promise<void>>> = {
  disconnected: () => Promise.resolve(),
  connecting: () => Promise.resolve(),
  "connecting, lockdown": (mac) => alone(mac, wanted("connecting", ALONE).policy),
  "connecting, lockdown, LAN": (mac) => alone(mac, wanted("connecting", AT_HOME).policy),
  connected: (mac) => connected(mac, ALONE),
  "connected, lockdown": (mac) => connected(mac, ALONE),
  "connected, LAN": (mac) => connected(mac, AT_HOME),
  "connected, lockdown, LAN": (mac) => connected(mac, AT_HOME),
  "without an exit": (mac) => exitless(mac, { kind: "exitless", tunnel: TUNNEL, own: OWN_MAC }),
  "without an exit, lockdown": (mac) => exitless(mac, wanted("connected", ALONE).policy),
  died: async (mac) => {
    await connected(mac, ALONE);
    mac.endTunnel();
  },
  disconnecting: (mac) => alone(mac, { kind: "disconnecting", near: ALONE }),
  "disconnecting, LAN": (mac) => alone(mac, { kind: "disconnecting", near: AT_HOME }),
  blocked: (mac) => blocked(mac, false),
  "blocked, LAN": (mac) => blocked(mac, true),
};

describe("docs/security-states.md, macOS", () => {
  const rows = documentedStates("## macOS");

  test("has a row for each situation", () => {
    expect(rows.map(({ situation }) => situation).toSorted()).toEqual(Object.keys(ENTER).toSorted());
  });

  for (const { situation, verdicts } of rows) {
    test(`is what routes and rules make of it: ${situation}`, async () => {
      const mac = new FakeMac();
      await ENTER[situation]?.(mac);
      const found: Record<string, Verdict> = {};
      for (const [name, packets] of Object.entries(CLASSES)) found[name] = verdictOf(mac, packets);
      expect(found).toEqual(verdicts as Record<string, Verdict>);
    });
  }

  test("would not hold without the rules: what is bound to an interface passes then", async () => {
    const mac = new FakeMac();
    await connected(mac, ALONE);
    mac.anchors.clear();
    expect(verdictOf(mac, CLASSES["bound to en0"] ?? [])).toBe("open");
    expect(verdictOf(mac, CLASSES["internet"] ?? [])).toBe("tunnel");
  });

  test("would not hold without the routes: nothing gets anywhere then, and nothing passes", async () => {
    const mac = new FakeMac();
    await connected(mac, ALONE);
    mac.routes.inet = mac.routes.inet.filter(({ flags }) => !flags.includes("12"));
    mac.routes.inet6 = mac.routes.inet6.filter(({ flags }) => !flags.includes("12"));
    expect(verdictOf(mac, CLASSES["internet"] ?? [])).toBe("closed");
  });
});
