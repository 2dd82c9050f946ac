// The exit's firewall over an nft that remembers: transactions, leases, clients, differences.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import { FirewallNotLoaded } from "../../../../src/net/firewall/errors.ts";
import { DENIED4, DENIED6 } from "../../../../src/net/firewall/exit.ts";
import { exitTable } from "../../../../src/net/firewall/exit-table.ts";
import { connectionLogTable } from "../../../../src/net/firewall/nft-connection-log.ts";
import { nftExitFirewall } from "../../../../src/net/firewall/nft-exit.ts";
import { replacementText } from "../../../../src/net/firewall/nft-table.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { memoryJournal } from "../memory-journal.ts";
import { cidr, CLOSED_POLICY, EXIT_POLICY, ip, OUTLET_POLICY } from "./exit-policy.ts";
import { FakeNft } from "./fake-nft.ts";

const { signal } = new AbortController();
const golden = (name: string): string => readFileSync(join(import.meta.dir, "golden", name), "utf8");

function exit(nft = new FakeNft()) {
  const journal = memoryJournal();
  const deps = { exec: nft, journal, identifiers: IDENTIFIERS.node, log: silentLogger };
  return { nft, journal, firewall: nftExitFirewall(deps), again: () => nftExitFirewall(deps) };
}

function lease(nft: FakeNft): readonly string[] {
  return nft.tables.get("higgs_node")?.sets.get("lease")?.elements ?? ["no table"];
}

describe("exitTable()", () => {
  test("holds clients of both families to the internet", () => {
    expect(replacementText(exitTable("higgs_node", EXIT_POLICY))).toBe(golden("exit.nft"));
  });

  test("lets nothing pass without an uplink and without clients", () => {
    expect(replacementText(exitTable("higgs_node", CLOSED_POLICY))).toBe(golden("exit-closed.nft"));
  });

  test("holds to what the owner decided: ports, closed destinations, opened parts of the home, mail", () => {
    expect(replacementText(exitTable("higgs_node", OUTLET_POLICY))).toBe(golden("exit-outlet.nft"));
  });

  test("refuses a name that is no interface's", () => {
    for (const name of ["", 'a"b', "eth0\n", "sixteen-letters-", "{ }", "a b"]) {
      expect(() => exitTable("higgs_node", { ...EXIT_POLICY, interface: name })).toThrow("no interface name");
      expect(() => exitTable("higgs_node", { ...EXIT_POLICY, uplinks: [name] })).toThrow("no interface name");
    }
  });

  test("denies every prefix that carries an IPv4 address, and the metadata service", () => {
    expect(DENIED6.includes("::ffff:0:0/96" as (typeof DENIED6)[number])).toBe(true);
    expect(DENIED4.includes(cidr("168.63.129.16/32"))).toBe(true);
  });
});

describe("connectionLogTable()", () => {
  test("remembers new connections of the tunnel for a minute, after the exit's own rules", () => {
    expect(replacementText(connectionLogTable("higgs_node_log", "higgsn0"))).toBe(golden("connection-log.nft"));
  });
});

describe("nftExitFirewall()", () => {
  test("loads the table and the lease in one transaction", async () => {
    const { nft, firewall, journal } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    expect(nft.loaded).toEqual([
      golden("exit.nft") +
        'add element inet higgs_node lease { "higgsn0" timeout 30s }\n' +
        'delete element inet higgs_node lease { "higgsn0" }\n' +
        'add element inet higgs_node lease { "higgsn0" timeout 30s }\n',
    ]);
    expect(journal.printed()).toBe("nft-table");
    expect(await firewall.verify(signal)).toEqual([]);
  });

  test("keeps a living lease over new rules, with the time that it has left", async () => {
    const { nft, firewall } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    const living = nft.tables.get("higgs_node")?.sets.get("lease");
    if (living !== undefined) living.elements = ['"higgsn0" timeout 30s expires 11s'];
    await firewall.apply({ ...EXIT_POLICY, uplinks: ["eth1"], open: false }, signal);
    expect(lease(nft)).toEqual(['"higgsn0" timeout 30s expires 11s']);
  });

  test("opens nothing that was closed unless it is asked to", async () => {
    const { nft, firewall } = exit();
    await firewall.apply({ ...EXIT_POLICY, open: false }, signal);
    expect(lease(nft)).toEqual([]);
    await firewall.renewLease(signal);
    expect(lease(nft)).toEqual(['"higgsn0" timeout 30s']);
    await firewall.closeLease(signal);
    expect(lease(nft)).toEqual([]);
  });

  test("writes nothing but the lease when everything is as wanted", async () => {
    const { nft, firewall, again } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    await firewall.apply({ ...EXIT_POLICY, open: false }, signal);
    expect(nft.loaded.length).toBe(1);
    await again().apply(EXIT_POLICY, signal); // the node was started again
    expect(nft.loaded.length).toBe(2);
    expect(nft.loaded[1]).not.toContain("table");
  });

  test("changes clients without touching the rules", async () => {
    const { nft, firewall } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    await firewall.setClients({ clients4: [ip("10.83.0.3"), ip("10.83.0.4")], clients6: EXIT_POLICY.clients6 }, signal);
    expect(nft.loaded[1]).toBe(
      "flush set inet higgs_node clients4\nadd element inet higgs_node clients4 { 10.83.0.3, 10.83.0.4 }\n",
    );
    await firewall.setClients({ clients4: [], clients6: [] }, signal);
    expect(nft.loaded[2]).toBe("flush set inet higgs_node clients4\nflush set inet higgs_node clients6\n");
    await firewall.setClients({ clients4: [], clients6: [] }, signal);
    expect(nft.loaded.length).toBe(3);
    expect(await firewall.verify(signal)).toEqual([]);
  });

  test("says what somebody else did to the table, and mends it", async () => {
    const { nft, firewall } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    const table = nft.tables.get("higgs_node");
    table?.chains.get("forward")?.rules.splice(1, 1);
    table?.sets.get("deny4")?.elements.pop();
    table?.chains.set("more", { type: "filter", hook: "input", prio: 0, policy: "accept", rules: [] });
    expect(await firewall.verify(signal)).toEqual([
      'The table "higgs_node" has a stranger named "more".',
      'The set "deny4" of "higgs_node" is not as wanted.',
      'The chain "forward" of "higgs_node" is not as wanted.',
    ]);
    await firewall.apply(EXIT_POLICY, signal);
    expect(await firewall.verify(signal)).toEqual([]);
    nft.tables.clear();
    expect(await firewall.verify(signal)).toEqual(['The table "higgs_node" is missing.']);
  });

  test("says that the table is not there instead of opening half an exit", async () => {
    const { nft, firewall } = exit();
    const refused = async (work: Promise<void>) =>
      expect(await work.catch((thrown: unknown) => thrown)).toBeInstanceOf(FirewallNotLoaded);
    await refused(firewall.renewLease(signal));
    await firewall.apply(EXIT_POLICY, signal);
    nft.tables.clear();
    await refused(firewall.renewLease(signal));
    await refused(firewall.setClients({ clients4: [], clients6: [] }, signal));
  });

  test("reads back who may use the exit and what is here, for a process that starts after another", async () => {
    const { firewall, again } = exit();
    expect(await firewall.loaded(signal)).toBeNull();
    await firewall.apply(EXIT_POLICY, signal);
    const { clients4, clients6 } = EXIT_POLICY;
    const here = ["192.168.1.0/24", "203.0.113.7/32", "2001:db8:7::/48", "fe80::1/128"].map(cidr);
    expect(await again().loaded(signal)).toEqual({ clients4, clients6, here });
  });

  test("takes everything away, and twice is harmless", async () => {
    const { nft, firewall, journal } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    await firewall.reset(signal);
    await firewall.reset(signal);
    expect(nft.printed()).toBe("");
    expect(journal.printed()).toBe("");
  });
});
