// What macOS would be told, as golden lists: every call with its words and its standard input, in order. Never run on a real Mac.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { silentLogger } from "../../../../src/base/log.ts";
import { writeLockdown } from "../../../../src/net/lockdown-file.ts";
import { ip } from "../firewall/exit-policy.ts";
import { failureOf } from "../../support/failure.ts";
import { POLICIES } from "../firewall/client-policies.ts";
import { FakeMac } from "./fake-mac.ts";
import { clientOf, comeUp, goDown, optionsOf, ROUTES, systemsOf, wanted } from "./mac-scene.ts";

const { signal } = new AbortController();

let stateDir = "";
let mac = new FakeMac();
beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "higgs-mac-"));
  mac = new FakeMac();
});
afterEach(() => rmSync(stateDir, { recursive: true }));

/** The calls since the last look, compared with the file of that name. */
function expectCalls(name: string): void {
  const path = join(import.meta.dir, "golden", `${name}.txt`);
  const text = `${mac.calls.join("\n")}\n`;
  mac.calls.length = 0;
  expect(text).toBe(readFileSync(path, "utf8"));
}

function journalOf(): unknown {
  const parsed = z
    .object({ undo: z.unknown() })
    .parse(JSON.parse(readFileSync(join(stateDir, "journal.json"), "utf8")));
  return parsed.undo;
}

describe("a client on macOS", () => {
  test("looks before it touches anything, and comes up", async () => {
    const os = await clientOf(mac, stateDir);
    expectCalls("start");
    await comeUp(os, false);
    expectCalls("up");
    expect(journalOf()).toEqual([
      { kind: "wireguard-device" },
      { kind: "pf-anchor" },
      { kind: "pf-enable", token: "9450349501" },
      { kind: "marked-routes" },
      { kind: "scutil-dns" },
    ]);
  });

  test("under lockdown is closed before there is a tunnel, and lets the tunnel pass once it is there", async () => {
    await comeUp(await clientOf(mac, stateDir), true);
    expectCalls("up-locked");
  });

  test("writes nothing where everything is as wanted", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    const before = mac.printed();
    mac.calls.length = 0;
    await comeUp(os, false);
    expectCalls("again");
    expect(mac.printed()).toBe(before);
  });

  test("follows another gateway and another server, and an exit without IPv6", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    mac.calls.length = 0;
    const [first] = mac.routes.inet;
    if (first !== undefined) mac.routes.inet[0] = { ...first, gateway: "192.168.7.254" };
    const carrier = [...ROUTES.carrier, { address: ip("198.51.100.7"), port: 443 }];
    await os.clientRoutes.apply({ ...ROUTES, carrier, families: { 4: "tunnel", 6: "refuse" } }, signal);
    expectCalls("change");
    expect(await os.clientRoutes.verify(signal)).toEqual([]);
  });

  test("needs no route past the tunnel to a server on its own network", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    await os.clientRoutes.apply({ ...ROUTES, carrier: [{ address: ip("192.168.7.5"), port: 443 }] }, signal);
    expect(mac.routes.inet.filter(({ flags }) => flags.includes("H"))).toEqual([]);
  });

  test("without an exit leads only the network's own addresses into the tunnel, and closes nothing", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    mac.calls.length = 0;
    await os.clientFirewall.apply({ policy: POLICIES["exitless"] ?? { kind: "disconnected" }, egress: [] }, signal);
    await os.clientRoutes.apply({ ...ROUTES, families: { 4: "own", 6: "own" } }, signal);
    await os.systemDns.reset(signal);
    expectCalls("exitless");
  });

  test("goes down in the reverse order, and leaves the Mac as it was", async () => {
    const before = mac.printed();
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    mac.calls.length = 0;
    expect(await goDown(os)).toEqual([
      "Took the tunnel's DNS servers away.",
      "Removed the routes of the client.",
      "Gave back that pf was switched on.",
      "Removed the firewall rules from pf.",
      "Removed the WireGuard tunnel.",
    ]);
    expectCalls("down");
    expect(mac.printed()).toBe(before);
    expect(await os.undoAll(signal)).toEqual([]);
  });

  test("under lockdown goes down closed, and opens only when the kill switch is off", async () => {
    const before = mac.printed();
    await writeLockdown(stateDir, { lockdown: true, lan: false, paranoid: false });
    const os = await clientOf(mac, stateDir);
    await comeUp(os, true);
    expect((await goDown(os))[0]).toStartWith("Kept the kill switch, which is on");
    expect(mac.isPfOn).toBe(true);
    expect(await os.clientFirewall.closes(signal)).toBe(true);
    await writeLockdown(stateDir, { lockdown: false, lan: false, paranoid: false });
    await os.undoAll(signal);
    expect(mac.printed()).toBe(before);
  });

  test("that was killed is put back by another process, from its journal", async () => {
    const before = mac.printed();
    await comeUp(await clientOf(mac, stateDir), false);
    mac.startAnew();
    const again = await systemsOf(mac).machine("client", optionsOf(stateDir));
    await again.undoAll(signal);
    expectCalls("clean");
    expect(mac.printed()).toBe(before);
  });

  test("that was killed is taken over as it is by the next start", async () => {
    await comeUp(await clientOf(mac, stateDir), false);
    const before = mac.printed();
    mac.startAnew();
    await comeUp(await clientOf(mac, stateDir), false);
    expect(mac.calls.filter((call) => /^(WG_TUN|route -n|ifconfig utun7 |wg set|pfctl.* -[fEF] )/.test(call))).toEqual(
      [],
    );
    expect(mac.printed()).toBe(before);
  });

  test("hears of what others do to rules and names, by looking", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    const rules = Promise.withResolvers<void>();
    const names = Promise.withResolvers<void>();
    await using _rules = os.watchRules(rules.resolve);
    await using _names = os.watchDns(names.resolve);
    mac.anchors.clear();
    await rules.promise;
    mac.store.clear();
    await names.promise;
  });

  test("with a damaged journal is found by its fixed names; that pf is on for it is all that stays", async () => {
    const before = mac.printed();
    await comeUp(await clientOf(mac, stateDir), false);
    mac.startAnew();
    writeFileSync(join(stateDir, "journal.json"), '{"version":1,"undo":[{"kind":"pf-enable","token":"1; rm -rf /"}]}');
    const again = await systemsOf(mac).machine("client", optionsOf(stateDir));
    expect(await again.changes(signal)).toHaveLength(24);
    mac.calls.length = 0;
    await again.undoAll(signal);
    expectCalls("clean-without-journal");
    expect(mac.printed()).toBe(before.replace("pf off", "pf on\nreference 9450349501"));
  });

  test("lists what it changed, and whether the journal knows", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    const changes = (await os.changes(signal)).filter(({ kind }) => kind !== "file");
    expect(changes.every(({ isJournaled }) => isJournaled)).toBe(true);
    expect(changes.map(({ what }) => what)).toEqual([
      "interface utun7",
      "pf anchor com.apple/000.higgs_client",
      ...changes.filter(({ kind }) => kind === "route").map(({ what }) => what),
      "scutil State:/Network/Service/higgs-client/DNS",
      "pf switched on",
    ]);
    expect(systemsOf(mac).closing).toEqual(["pf anchor com.apple/000.higgs_client", "pf switched on"]);
  });

  test("sees what somebody else did to rules, routes and names", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    expect(await os.clientFirewall.verify(signal)).toEqual([]);
    const rules = mac.anchors.get("com.apple/000.higgs_client") ?? [];
    for (const other of [[], rules.slice(1), ["pass quick all", ...rules], rules.toReversed()]) {
      mac.anchors.set("com.apple/000.higgs_client", other);
      expect(await os.clientFirewall.verify(signal)).toHaveLength(1);
    }
    mac.anchors.set("com.apple/000.higgs_client", rules);
    mac.isPfOn = false;
    expect(await os.clientFirewall.verify(signal)).toEqual(["pf is switched off."]);
    mac.isPfOn = true;
    mac.mainRules = 'pass out quick all\nanchor "com.apple/*" all\n';
    expect((await os.clientFirewall.verify(signal)).join()).toContain("pass out quick all");
    mac.routes.inet = mac.routes.inet.filter(({ destination }) => destination !== "0/2");
    expect(await os.clientRoutes.verify(signal)).toEqual([
      "Wants: route -n add -inet -net 0.0.0.0/2 -interface utun7 -proto1 -proto2.",
    ]);
  });

  test("loses nothing outside when its wireguard-go is killed: what refuses is left", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    mac.endTunnel();
    expect(mac.routes.inet.filter(({ flags }) => flags.includes("12")).map(({ destination }) => destination)).toEqual([
      "203.0.113.10",
      "0/1",
      "128.0/1",
      "10.83/16",
    ]);
    // The tunnel's name may be another program's next.
    await os.clientFirewall.apply(wanted("connected"), signal);
    expect(mac.anchors.get("com.apple/000.higgs_client")?.join("\n")).not.toContain("utun");
  });
});

describe("refusals on macOS", () => {
  test("a node, with the reason", async () => {
    expect(String(await failureOf(systemsOf(mac).node(optionsOf(stateDir))))).toContain(
      "could not be made to close by itself",
    );
    expect(mac.calls).toEqual([]);
  });

  test("a pf whose main rules do not lead to ours, before anything is touched", async () => {
    mac.mainRules = "block drop in all\n";
    expect(String(await failureOf(clientOf(mac, stateDir)))).toContain("do not call Apple's anchor");
    mac.mainRules = 'anchor "org.example" all\nanchor "com.apple/*" all\n';
    expect(String(await failureOf(clientOf(mac, stateDir)))).toContain(
      'another program\'s rule of pf decides first: anchor "org.example"',
    );
    expect(mac.calls.every((call) => call === "pfctl -s rules")).toBe(true);
  });

  test("raw frames that pf cannot stop, after the rest was closed", async () => {
    const os = await clientOf(mac, stateDir);
    const blocked = { policy: { kind: "blocked", near: { bridges: [], lan: null } }, egress: ["en0"] } as const;
    expect(String(await failureOf(os.clientFirewall.apply(blocked, signal)))).toContain("pf does not see them");
    expect(await os.clientFirewall.closes(signal)).toBe(true);
  });

  test("another VPN's route where ours belongs", async () => {
    const os = await clientOf(mac, stateDir);
    mac.routes.inet.push({ destination: "0/1", gateway: "utun3", flags: "USc", netif: "utun3" });
    expect(String(await failureOf(comeUp(os, false)))).toContain("another program has a route of its own there");
  });

  test("a tunnel's name that nobody's macOS gave", async () => {
    const os = await clientOf(mac, stateDir);
    await comeUp(os, false);
    const { host } = mac;
    Object.assign(host, { readName: () => Promise.resolve('utun7" all pass') });
    expect(String(await failureOf(os.clientRoutes.apply(ROUTES, signal)))).toContain("the tunnel is not there");
  });
});

describe("the kill switch of a client that does not run", () => {
  test("closes with the LAN of the moment, by what is kept on disk, and is found again", async () => {
    const lock = systemsOf(mac).clientLock({ stateDir, log: silentLogger });
    expect(await lock.isLoaded(signal)).toBe(false);
    mac.calls.length = 0;
    await lock.block({ lockdown: true, lan: true, paranoid: false }, signal);
    expectCalls("block-lan");
    expect(await lock.isLoaded(signal)).toBe(true);
  });

  test("closes also where its journal cannot be written", async () => {
    const lock = systemsOf(mac).clientLock({ stateDir: join(stateDir, "nowhere"), log: silentLogger });
    await lock.block({ lockdown: true, lan: false, paranoid: false }, signal);
    expect(mac.isPfOn).toBe(true);
  });

  test("is taken away by panic, without a journal that can be read", async () => {
    const systems = systemsOf(mac);
    await systems
      .clientLock({ stateDir, log: silentLogger })
      .block({ lockdown: true, lan: false, paranoid: false }, signal);
    await writeLockdown(stateDir, { lockdown: true, lan: false, paranoid: false });
    writeFileSync(join(stateDir, "journal.json"), "{");
    expect(await systems.removeAll("client", { stateDir, log: silentLogger }, signal)).toEqual([
      "Removed the firewall rules from pf.",
    ]);
    expect(mac.anchors.size).toBe(0);
  });
});
