// Windows, from the commands that it is given: written from documentation, compared whole, and never run on a real machine.
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { clientSystem, machineSystem, nodeSystem } from "../../../../src/net/os.ts";
import { RESOLVER_PORT } from "../../../../src/net/identifiers.ts";
import { USUAL_OUTLET } from "../../../../src/net/firewall/exit.ts";
import { OPEN, writeLockdown } from "../../../../src/net/lockdown-file.ts";
import type { ClientFirewallPolicy } from "../../../../src/net/firewall/client.ts";
import { ALONE, POLICIES, TUNNEL } from "../firewall/client-policies.ts";
import { change, comeUp, CONFIG, CONNECTED, DNS, ROUTES, scene, type Scene, signal, WITH_LAN } from "./client-scene.ts";
import { FakeWindows } from "./fake-windows.ts";
import { failureOf } from "../../support/failure.ts";

const golden = (name: string): string => readFileSync(join(import.meta.dir, "golden", `${name}.txt`), "utf8");
const scenes: Scene[] = [];
afterEach(() => {
  for (const { stateDir } of scenes.splice(0)) rmSync(stateDir, { recursive: true });
});
function setUp(windows?: FakeWindows): Scene {
  const made = scene(windows);
  scenes.push(made);
  return made;
}

describe("a client on Windows", () => {
  test("comes up, changes, is verified and goes down by these commands, in this order", async () => {
    const { windows, systems, options } = setUp();
    const before = windows.printed();
    const os = await systems.client(options);
    await comeUp(os);
    expect(windows.takeCalls()).toBe(golden("up"));

    await comeUp(os);
    expect(windows.takeCalls()).toBe(golden("up-again"));

    await change(os);
    expect(windows.takeCalls()).toBe(golden("change"));

    expect(await os.clientFirewall.verify(signal)).toEqual([]);
    expect(await os.clientRoutes.verify(signal)).toEqual([]);
    expect(await os.wireGuard.verify(CONFIG, signal)).toEqual([]);
    expect(windows.takeCalls()).toBe(golden("verify"));

    await os.systemDns.reset(signal);
    await os.clientRoutes.reset(signal);
    await os.wireGuard.reset(signal);
    await os.clientFirewall.reset(signal);
    expect(windows.takeCalls()).toBe(golden("down"));
    expect(windows.printed()).toBe(before);
  });

  test("gives its key to a file that is gone once the tunnel runs, in a folder that is closed before", async () => {
    const { windows, systems, options, stateDir } = setUp();
    const os = await systems.client(options);
    await os.wireGuard.apply(CONFIG, signal);
    expect(windows.conf).toBe(golden("tunnel-conf").replaceAll("\n", "\r\n"));
    expect(existsSync(join(stateDir, "tunnel", "higgs0.conf"))).toBe(false);
    const calls = windows.takeCalls();
    expect(calls).not.toContain(CONFIG.privateKey);
    expect(calls.indexOf("icacls")).toBeLessThan(calls.indexOf("/installtunnelservice"));
  });

  test("takes away the file with the key that a process left which was killed meanwhile", async () => {
    const { windows, systems, options, stateDir } = setUp();
    windows.failure = { at: 3, when: "killed" }; // after both of the folder's rights: the installation
    await failureOf((await systems.client(options)).wireGuard.apply(CONFIG, signal));
    expect(windows.calls.at(-1)).toStartWith("wireguard /installtunnelservice");
    const path = join(stateDir, "tunnel", "higgs0.conf");
    writeFileSync(path, windows.conf, { mode: 0o600 }); // who is killed takes nothing away
    windows.isKilled = false;
    await (await systems.machine("client", options)).undoAll(signal);
    expect(existsSync(path)).toBe(false);
    expect(windows.services.size).toBe(0);
  });

  test("takes a tunnel over that lives, and makes one anew whose key is another's", async () => {
    const { windows, systems, options } = setUp();
    await (await systems.client(options)).wireGuard.apply(CONFIG, signal);
    windows.takeCalls();
    const again = await systems.client(options);
    await again.wireGuard.apply(CONFIG, signal);
    expect(windows.takeCalls()).not.toContain("tunnelservice");
    const other = { ...CONFIG, privateKey: "6Pmu6CJ1xVNWkCg1aPYWbRYNQmbNlnZIoFyANT1EvHY=" as typeof CONFIG.privateKey };
    await again.wireGuard.apply(other, signal);
    expect(windows.takeCalls()).toContain("wireguard /uninstalltunnelservice higgs0");
  });

  test("finds and puts back by the journal what a killed process left, the firewall's own settings too", async () => {
    const { windows, systems, options, stateDir } = setUp();
    windows.profiles.set("Private", { enabled: "False", outbound: "Allow" });
    const before = windows.printed();
    await comeUp(await systems.client(options));
    windows.takeCalls();
    const machine = await systems.machine("client", options);
    expect((await machine.changes(signal)).filter(({ kind }) => kind !== "file").map(({ what }) => what)).toEqual(
      golden("state-list").trimEnd().split("\n"),
    );
    windows.takeCalls();
    const said = await machine.undoAll(signal);
    expect(`${windows.takeCalls()}${said.join("\n")}\n`).toBe(golden("clean"));
    expect(windows.printed()).toBe(before);
    expect(existsSync(join(stateDir, "journal.json"))).toBe(false);
  });

  test("puts everything back by its names when the journal is damaged, and Windows' own default for what nobody knows", async () => {
    const { windows, systems, options, stateDir } = setUp();
    const before = windows.printed();
    await comeUp(await systems.client(options));
    writeFileSync(
      join(stateDir, "journal.json"),
      '{"version":1,"undo":[{"kind":"windows-profile","profile":"$(calc)"}]}',
    );
    windows.takeCalls();
    const said = await (await systems.machine("client", options)).undoAll(signal);
    expect(`${windows.takeCalls()}${said.join("\n")}\n`).toBe(golden("clean-without-journal"));
    expect(windows.printed()).toBe(before);
  });

  test("leaves a firewall alone that somebody had set to block, and that somebody opened meanwhile", async () => {
    const { windows, systems, options } = setUp();
    windows.profiles.set("Public", { enabled: "True", outbound: "Block" });
    const os = await systems.client(options);
    await os.clientFirewall.apply(CONNECTED, signal);
    windows.profiles.set("Domain", { enabled: "True", outbound: "Allow" });
    await os.clientFirewall.reset(signal);
    expect(windows.profiles.get("Public")).toEqual({ enabled: "True", outbound: "Block" });
    expect(windows.profiles.get("Domain")).toEqual({ enabled: "True", outbound: "Allow" });
    expect(windows.profiles.get("Private")).toEqual({ enabled: "True", outbound: "NotConfigured" });
  });

  test("keeps the kill switch through a clean-up, and panic takes it away without a journal that can be read", async () => {
    const { windows, systems, options, stateDir } = setUp();
    const before = windows.printed();
    await comeUp(await systems.client(options));
    await writeLockdown(stateDir, { ...OPEN, lockdown: true });
    await (await systems.machine("client", options)).undoAll(signal);
    expect(windows.rules.size).toBeGreaterThan(0);
    expect([...windows.rules.values()].every(({ Program }) => Program === undefined)).toBe(true);
    expect(await systems.clientLock(options).isLoaded(signal)).toBe(true);
    rmSync(join(stateDir, "journal.json"));
    await systems.removeAll("client", options, signal);
    expect(windows.printed()).toBe(before);
  });

  test("mends a rule that somebody changed, and says so before", async () => {
    const { windows, systems, options } = setUp();
    const os = await systems.client(options);
    await os.clientFirewall.apply(CONNECTED, signal);
    const rule = [...windows.rules.values()].find(({ Action }) => Action === "Block");
    if (rule === undefined) throw new Error("there is no rule that blocks");
    windows.rules.set(rule.Name, { ...rule, Action: "Allow" });
    expect(await os.clientFirewall.verify(signal)).toEqual([`The rule ${rule.Name} was changed.`]);
    await os.clientFirewall.apply(CONNECTED, signal);
    expect(await os.clientFirewall.verify(signal)).toEqual([]);
    expect(windows.rules.get(rule.Name)?.Action).toBe("Block");
  });

  test("refuses to say that it closes where group policy, or an exempt interface, would undo it", async () => {
    for (const spoil of [
      (windows: FakeWindows) => void (windows.localRules = "False"),
      (windows: FakeWindows) => void (windows.exempt = ["Wi-Fi"]),
    ]) {
      const { windows, systems, options } = setUp();
      spoil(windows);
      const before = windows.printed();
      const os = await systems.client(options);
      expect(String(await failureOf(os.clientFirewall.apply(CONNECTED, signal)))).toContain(
        "Cannot close this machine",
      );
      expect(windows.printed()).toBe(before);
    }
  });

  test("refuses what it does not have: raw frames, search domains, another MTU below IPv6's", async () => {
    const { systems, options } = setUp();
    const os = await systems.client(options);
    expect(String(await failureOf(os.clientFirewall.apply({ ...CONNECTED, egress: ["Wi-Fi"] }, signal)))).toContain(
      "raw frames",
    );
    expect(String(await failureOf(os.systemDns.apply({ ...DNS, searchDomains: ["lan"] }, signal)))).toContain(
      "search domains",
    );
    expect(String(await failureOf(os.wireGuard.apply({ ...CONFIG, mtu: 1000 }, signal)))).toContain("below 1280");
    expect(String(await failureOf(os.clientRoutes.apply({ ...ROUTES, interface: "absent" }, signal)))).toContain(
      "no such interface",
    );
  });

  test("takes the WebSocket alone, as no packet can be kept out of the tunnel", async () => {
    const { systems, options } = setUp();
    expect(await (await systems.client(options)).discovery(signal)).toBeNull();
  });

  test("asks for an elevated prompt before it touches anything", async () => {
    const { windows, systems, options } = setUp();
    windows.isElevated = false;
    expect(String(await failureOf(systems.client(options)))).toContain("not elevated");
    expect(windows.changes).toBe(0);
  });

  test("reads names of interfaces as they are, whatever is in them", async () => {
    const { windows, systems, options } = setUp();
    const alias = `'; Remove-Item C:\\ -Recurse; "$(calc)"\nWi-Fi`;
    for (const one of windows.network.interfaces) if (one.index === 12) one.alias = alias;
    const os = await systems.client(options);
    expect((await os.readLinks(signal)).uplinks[0]?.interface).toBe(alias);
    await comeUp(os);
    const calls = windows.takeCalls();
    expect(calls).not.toContain("Remove-Item");
    expect(calls).toContain("interface=12 nexthop=192.168.7.1");
  });
});

describe("windowsClientFirewall()", () => {
  const lan = WITH_LAN.policy.near;
  const situations: Readonly<Record<string, ClientFirewallPolicy>> = {
    ...POLICIES,
    "connected-lan": WITH_LAN.policy,
    "connecting-lan": { ...WITH_LAN.policy, kind: "connecting" },
    "disconnecting-lan": { kind: "disconnecting", near: lan },
    "blocked-lan": { kind: "blocked", near: lan },
    disconnected: { kind: "disconnected" },
  };
  for (const [name, policy] of Object.entries(situations)) {
    test(`gives these commands for ${name}, and from there for a machine that is blocked and one that is open`, async () => {
      const { windows, systems, options } = setUp();
      const { clientFirewall } = await systems.client(options);
      windows.takeCalls();
      await clientFirewall.apply({ policy, egress: [] }, signal);
      await clientFirewall.apply({ policy: { kind: "blocked", near: ALONE }, egress: [] }, signal);
      await clientFirewall.apply({ policy: { kind: "disconnected" }, egress: [] }, signal);
      expect(windows.takeCalls()).toBe(golden(`firewall-${name}`));
      expect(windows.printed()).toBe(new FakeWindows().printed());
    });
  }
});

describe("a node on Windows", () => {
  test("keeps peers from its own services by these commands, offers no exit, and says why", async () => {
    const { windows, systems, options } = setUp();
    const before = windows.printed();
    const os = await systems.node(options);
    expect(os.firewallTrouble?.message).toContain("does not see the packets that it passes on");
    const policy = {
      interface: "higgsn0",
      uplinks: ["Wi-Fi"],
      clients4: [],
      clients6: [],
      addresses: TUNNEL.addresses,
      here4: [],
      here6: [],
      fence4: [],
      fence6: [],
      outlet: USUAL_OUTLET,
      resolverPort: RESOLVER_PORT,
      leaseS: 30,
      open: false,
    };
    await os.exitFirewall.apply(policy, signal);
    await os.wireGuard.apply({ ...CONFIG, prefixes: ROUTES.tunnelPrefixes }, signal);
    expect(await os.exitFirewall.verify(signal)).toEqual([]);
    expect(String(await failureOf(os.exitFirewall.renewLease(signal)))).toContain("Cannot isolate an exit");
    expect(await os.enableForwarding({ uplinks: [], ipv6: true })).toHaveLength(1);
    expect(windows.takeCalls()).toBe(golden("node-up"));
    for (const one of windows.network.interfaces) if (one.index === 12) one.forwarding = "Enabled";
    expect(await os.exitFirewall.verify(signal)).toHaveLength(1);
    for (const one of windows.network.interfaces) one.forwarding = "Disabled";
    windows.takeCalls();
    await os.undoAll(signal);
    expect(windows.takeCalls()).toBe(golden("node-clean"));
    expect(windows.printed()).toBe(before);
  });
});

describe("nodeSystem() and clientSystem()", () => {
  test("ask for a deliberate word before anything on a platform where higgs never ran", async () => {
    const { options } = setUp();
    const asked = { ...options, untestedPlatform: false };
    expect(String(await failureOf(clientSystem(asked, "windows")))).toContain("never run");
    expect(await failureOf(nodeSystem(asked, "windows"))).toMatchObject({ code: "platform-untested" });
  });

  test("ask for nothing where something is to be put back", async () => {
    const { options } = setUp();
    // This machine has no PowerShell: that far it comes.
    expect(await failureOf(machineSystem("client", options, "windows"))).toMatchObject({ code: "tool-missing" });
  });
});
