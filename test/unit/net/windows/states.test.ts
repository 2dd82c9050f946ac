// docs/security-states.md for Windows: each cell of its table, by the routes and rules that the client would have there. Never seen on a real one.
import { afterEach, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import type { ClientFirewallPolicy } from "../../../../src/net/firewall/client.ts";
import { ALONE, OWN, TUNNEL } from "../firewall/client-policies.ts";
import { documentedStates } from "../documented-states.ts";
import { comeUp, CONNECTED, ROUTES, scene, type Scene, signal, WITH_LAN } from "./client-scene.ts";
import { CLASSES, type Verdict, verdictOf } from "./verdicts.ts";

const scenes: Scene[] = [];
afterEach(() => {
  for (const { stateDir } of scenes.splice(0)) rmSync(stateDir, { recursive: true });
});

type Enter = (made: Scene) => Promise<void>;
const LAN = WITH_LAN.policy.near;

const alone =
  (policy: ClientFirewallPolicy): Enter =>
  async ({ systems, options }) => {
    await (await systems.client(options)).clientFirewall.apply({ policy, egress: [] }, signal);
  };
const connected =
  (wanted: typeof CONNECTED | typeof WITH_LAN): Enter =>
  async ({ systems, options }) => {
    const os = await systems.client(options);
    await comeUp(os);
    await os.clientFirewall.apply(wanted, signal);
  };
/** A tunnel without an exit: only the network's own addresses enter it. */
const exitless =
  (policy: ClientFirewallPolicy): Enter =>
  async ({ systems, options }) => {
    const os = await systems.client(options);
    await comeUp(os);
    await os.clientRoutes.apply({ ...ROUTES, families: { 4: "own", 6: "own" } }, signal);
    await os.clientFirewall.apply({ policy, egress: [] }, signal);
  };
const blocked =
  (lan: boolean): Enter =>
  async ({ systems, options }) => {
    await systems.clientLock(options).block({ lockdown: true, lan, paranoid: false }, signal);
  };

const ENTER: Readonly<Record<string, Enter>> = {
  disconnected: () => Promise.resolve(),
  connecting: () => Promise.resolve(),
  "connecting, lockdown": alone({ kind: "connecting", tunnel: TUNNEL, own: OWN, near: ALONE }),
  "connecting, lockdown, LAN": alone({ kind: "connecting", tunnel: TUNNEL, own: OWN, near: LAN }),
  connected: connected(CONNECTED),
  "connected, lockdown": connected(CONNECTED),
  "connected, LAN": connected(WITH_LAN),
  "connected, lockdown, LAN": connected(WITH_LAN),
  "without an exit": exitless({ kind: "exitless", tunnel: TUNNEL, own: OWN }),
  "without an exit, lockdown": exitless(CONNECTED.policy),
  died: async (made) => {
    await connected(CONNECTED)(made);
    // Windows takes an adapter's routes and addresses with it.
    await made.windows.run(["wireguard", "/uninstalltunnelservice", "higgs0"]);
  },
  disconnecting: alone({ kind: "disconnecting", near: ALONE }),
  "disconnecting, LAN": alone({ kind: "disconnecting", near: LAN }),
  blocked: blocked(false),
  "blocked, LAN": blocked(true),
};

async function entered(situation: string): Promise<Scene> {
  const made = scene();
  scenes.push(made);
  await ENTER[situation]?.(made);
  return made;
}

describe("docs/security-states.md, Windows", () => {
  const rows = documentedStates("## Windows");

  test("has a row for each situation", () => {
    expect(rows.map(({ situation }) => situation).toSorted()).toEqual(Object.keys(ENTER).toSorted());
  });

  for (const { situation, verdicts } of rows) {
    test(`is what routes and rules make of it: ${situation}`, async () => {
      const { windows } = await entered(situation);
      const found: Record<string, Verdict> = {};
      for (const [name, packets] of Object.entries(CLASSES)) found[name] = verdictOf(windows, packets);
      expect(found).toEqual(verdicts as Record<string, Verdict>);
    });
  }

  test("would not hold without the refusals: a program with a permission of its own passes then", async () => {
    const { windows } = await entered("connected");
    for (const [name, { Action }] of windows.rules) if (Action === "Block") windows.rules.delete(name);
    expect(verdictOf(windows, CLASSES["the same, with a permission of its own"] ?? [])).toBe("open");
    expect(verdictOf(windows, CLASSES["bound to Wi-Fi"] ?? [])).toBe("closed");
  });

  test("would not hold without the default: everybody reaches the server beside the tunnel then", async () => {
    const { windows } = await entered("connected");
    for (const profile of windows.profiles.values()) profile.outbound = "Allow";
    const others = (CLASSES["carrier"] ?? []).map((packet) => ({ ...packet, program: "browser.exe" }));
    expect(verdictOf(windows, others)).toBe("open");
  });

  test("would not hold without the routes: nothing gets anywhere then, and nothing passes", async () => {
    const { windows } = await entered("connected");
    windows.network.routes = windows.network.routes.filter(({ index }) => index !== 42);
    expect(verdictOf(windows, CLASSES["internet"] ?? [])).toBe("closed");
  });
});
