// Tests of putting everything back: in the reverse of the journal, then by fixed names, and never stopped by one failure.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { IpAddress } from "../../../src/base/ip.ts";
import { silentLogger } from "../../../src/base/log.ts";
import { resolvConfText } from "../../../src/net/dns/resolv-conf-text.ts";
import { type Exec, type ExecResult, toolMissing, ToolTimeout } from "../../../src/net/exec.ts";
import type { UndoEntry } from "../../../src/net/journal.ts";
import { undoAll, type UndoDeps } from "../../../src/net/undo.ts";
import type { Role } from "../../../src/proto/role.ts";
import { memoryJournal } from "./memory-journal.ts";
import { FakeIptables } from "./firewall/fake-iptables.ts";
import { FakeMachine } from "./wg/fake-machine.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "higgs-undo-"));
  mkdirSync(join(dir, "sys/net/ipv4"), { recursive: true });
  writeFileSync(join(dir, "sys/net/ipv4/ip_forward"), "1\n");
  writeFileSync(join(dir, "resolv.conf"), "nameserver 192.0.2.1\n");
});
afterEach(() => rmSync(dir, { recursive: true }));

/** A machine with our device, tables and rules, of which each command takes away what it should. */
class FakeSystem implements Exec {
  readonly tables = new Set<string>();
  readonly rules = new Set<number>();
  readonly missing = new Set<string>();
  readonly refused = new Set<string>();
  readonly silent = new Set<string>();
  readonly machine = new FakeMachine();
  readonly iptables = new FakeIptables();
  readonly order: string[] = [];

  async run(argv: readonly [string, ...string[]], options: { readonly stdin?: string } = {}): Promise<ExecResult> {
    const command = argv.join(" ");
    if (this.missing.has(argv[0])) throw toolMissing(argv[0]);
    if (this.silent.has(argv[0])) throw new ToolTimeout(`Cannot run "${argv[0]}".`, { code: "tool-timeout" });
    if (this.refused.has(argv[0])) return result(1, "", "Operation not permitted");
    const table = /^nft delete table (?:inet|netdev) (\S+)$/.exec(command)?.[1];
    if (table !== undefined) {
      if (!this.tables.delete(table)) return result(1, "", "Error: No such file or directory");
      this.order.push(`table ${table}`);
      return result(0);
    }
    if (/^ip -N -j -[46] rule show$/.test(command)) {
      const shown = command.includes("-4") ? [...this.rules] : [];
      return result(0, JSON.stringify(shown.map((priority) => ({ priority, src: "all", table: "5270" }))));
    }
    if (/^ip -N -j -[46] route show table 5270$/.test(command))
      return result(2, "", "Error: ipv4: FIB table does not exist.");
    if (/^ip -4 -batch -$/.test(command)) {
      for (const [, pref] of (options.stdin ?? "").matchAll(/pref (\d+)/g)) this.rules.delete(Number(pref));
      this.order.push("rules");
      return result(0);
    }
    if (/^ip6?tables/.test(argv[0])) {
      const answer = await this.iptables.run(argv, options);
      if (argv[0].endsWith("-restore")) this.order.push("chains");
      return answer;
    }
    if (argv[0] === "systemctl") return result(0, "active\n");
    if (argv[0] === "resolvectl") {
      this.order.push(command);
      return result(0);
    }
    const had = this.machine.links.size;
    const answer = await this.machine.run(argv, options);
    if (this.machine.links.size < had) this.order.push("device");
    return answer;
  }
}

function result(code: number, stdout = "", stderr = ""): ExecResult {
  return { code, stdout, stderr };
}

function setUp(entries: readonly UndoEntry[] = [], role: Role = "client") {
  const exec = new FakeSystem();
  const journal = memoryJournal(entries);
  const deps: UndoDeps = {
    exec,
    journal,
    log: silentLogger,
    stateDir: dir,
    signal: new AbortController().signal,
    resolvConfPath: join(dir, "resolv.conf"),
    sysctlDir: join(dir, "sys"),
    host: exec.machine.host,
  };
  return { exec, journal, undo: () => undoAll(role, deps) };
}

const FORWARD: UndoEntry = { kind: "sysctl", key: "net.ipv4.ip_forward", before: "0", ours: "1" };
const UP: readonly UndoEntry[] = [
  { kind: "nft-table" },
  FORWARD,
  { kind: "ip-rules" },
  { kind: "ip-routes" },
  { kind: "wireguard-device" },
  { kind: "resolved-link" },
];

describe("undoAll()", () => {
  test("goes through the journal in reverse, says what it did, and leaves the journal empty", async () => {
    const { exec, journal, undo } = setUp(UP);
    exec.tables.add("higgs_client");
    exec.rules.add(5270);
    exec.machine.addLink("higgs0", "wireguard");
    expect(await undo()).toEqual([
      "Took the DNS servers off higgs0 in systemd-resolved.",
      "Removed the WireGuard device higgs0.",
      "Removed the routing rules and routes of the client.",
      "Put the kernel setting net.ipv4.ip_forward back to 0.",
      "Removed the firewall table inet higgs_client.",
    ]);
    expect(exec.order.filter((one) => one !== "resolvectl revert higgs0")).toEqual([
      "device",
      "rules",
      "table higgs_client",
    ]);
    expect(journal.entries()).toEqual([]);
    expect(readFileSync(join(dir, "sys/net/ipv4/ip_forward"), "utf8")).toBe("0\n");
  });

  test("finds everything by its fixed names when the journal is lost", async () => {
    const { exec, undo } = setUp();
    exec.tables.add("higgs_client").add("higgs_node");
    exec.rules.add(5210);
    exec.machine.addLink("higgs0", "wireguard");
    exec.machine.addLink("higgsn0", "wireguard");
    expect(await undo()).toEqual([
      "Removed the WireGuard device higgs0.",
      "Removed the routing rules and routes of the client.",
      "Removed the firewall table inet higgs_client.",
    ]);
    expect([...exec.tables, ...exec.machine.links.keys()]).toEqual(["higgs_node", "higgsn0"]);
  });

  test("takes chains of iptables away by their names, and leaves the other role's", async () => {
    const { exec, undo } = setUp();
    const stdin =
      "*filter\n:higgs-client-out - [0:0]\n-I OUTPUT 1 -j higgs-client-out\n:higgs-node-in - [0:0]\nCOMMIT\n";
    await exec.iptables.run(["ip6tables-restore", "--noflush", "-w", "5"], { stdin });
    expect(await undo()).toEqual(["Removed the iptables chains higgs-client-*."]);
    const { stdout } = await exec.iptables.run(["ip6tables-save"]);
    expect(stdout).not.toContain("higgs-client");
    expect(stdout).toContain("higgs-node-in");
  });

  test("says nothing the second time", async () => {
    const { exec, undo } = setUp(UP);
    exec.tables.add("higgs_client");
    await undo();
    expect(await undo()).toEqual([]);
  });

  test("goes on after a failure, keeps what failed in the journal, and then says so", async () => {
    const { exec, journal, undo } = setUp(UP);
    exec.refused.add("nft");
    exec.machine.addLink("higgs0", "wireguard");
    const thrown = await undo().catch((caught: unknown) => caught);
    expect(thrown).toMatchObject({ code: "undo-incomplete", remedy: "sudo higgs state clean --role client" });
    expect(String(thrown)).toContain("Operation not permitted");
    expect(journal.printed()).toBe("nft-table");
    expect(exec.machine.links.size).toBe(0);
  });

  test("keeps a setting in the journal that cannot be put back, and says so", async () => {
    rmSync(join(dir, "sys/net/ipv4/ip_forward"));
    mkdirSync(join(dir, "sys/net/ipv4/ip_forward"));
    const { journal, undo } = setUp([FORWARD]);
    expect(await undo().catch((thrown: unknown) => thrown)).toMatchObject({ code: "undo-incomplete" });
    expect(journal.printed()).toBe("net.ipv4.ip_forward");
  });

  test("does not miss a tool that a machine without it never needed, and does one that it did", async () => {
    const unused = setUp([], "node");
    for (const tool of ["nft", "resolvectl"]) unused.exec.missing.add(tool);
    expect(await unused.undo()).toEqual([]);
    const used = setUp([{ kind: "nft-table" }], "node");
    used.exec.missing.add("nft");
    expect(String(await used.undo().catch((thrown: unknown) => thrown))).toContain('Cannot find the tool "nft"');
  });

  test("bug: a step that failed at what no journal names ended the undoing on a machine without nft", async () => {
    const { exec, undo } = setUp();
    const stdin = "*filter\n:higgs-client-out - [0:0]\n-I OUTPUT 1 -j higgs-client-out\nCOMMIT\n";
    await exec.iptables.run(["iptables-restore", "--noflush", "-w", "5"], { stdin });
    exec.missing.add("nft");
    exec.refused.add("ip");
    expect(await undo().catch((caught: unknown) => caught)).toMatchObject({ code: "undo-incomplete" });
    expect((await exec.iptables.run(["iptables-save"])).stdout).not.toContain("higgs");
  });

  test("bug: rules that ip refused to list were taken for none where nft does no work", async () => {
    const { exec, undo } = setUp();
    exec.refused.add("ip").add("nft");
    expect(String(await undo().catch((caught: unknown) => caught))).toContain("Cannot list the IPv4 rules");
  });

  test("bug: a resolved that does not answer kept the undoing incomplete, although its link goes away", async () => {
    const { exec, journal, undo } = setUp(UP);
    exec.silent.add("systemctl").add("resolvectl");
    exec.machine.addLink("higgs0", "wireguard");
    expect(await undo()).toContain("Removed the WireGuard device higgs0.");
    expect(journal.printed()).toBe("");
  });

  test("bug: a node that ended beside a connected client failed at the client's resolv.conf", async () => {
    const { undo } = setUp([FORWARD], "node");
    const ofClient = resolvConfText({ interface: "higgs0", servers: ["10.64.0.1" as IpAddress] });
    writeFileSync(join(dir, "resolv.conf"), ofClient);
    writeFileSync(join(dir, "resolv.conf.higgs-new"), "half");
    expect(await undo()).toEqual(["Put the kernel setting net.ipv4.ip_forward back to 0."]);
    expect(readFileSync(join(dir, "resolv.conf"), "utf8")).toBe(ofClient);
    expect(readFileSync(join(dir, "resolv.conf.higgs-new"), "utf8")).toBe("half");
  });

  test("leaves an interface with our name that is no WireGuard", async () => {
    const { exec, undo } = setUp();
    exec.machine.addLink("higgs0", "bridge");
    expect(await undo()).toEqual([]);
    expect(exec.machine.links.size).toBe(1);
  });
});
