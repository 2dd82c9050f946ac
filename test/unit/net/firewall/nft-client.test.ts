// The client's firewall: its rules as golden files, and over an nft that remembers.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import type { ClientFirewallPolicy, ClientFirewallWanted } from "../../../../src/net/firewall/client.ts";
import { rulesetFor } from "../../../../src/net/firewall/client-table.ts";
import { egressTable } from "../../../../src/net/firewall/egress-table.ts";
import { nftClientFirewall } from "../../../../src/net/firewall/nft-client.ts";
import { replacementText } from "../../../../src/net/firewall/nft-table.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { memoryJournal } from "../memory-journal.ts";
import { ALONE, OWN, POLICIES, TUNNEL } from "./client-policies.ts";
import { FakeNft } from "./fake-nft.ts";

const { signal } = new AbortController();
const mark = IDENTIFIERS.client;
const golden = (name: string): string => readFileSync(join(import.meta.dir, "golden", `${name}.nft`), "utf8");
const policyOf = (name: string): ClientFirewallPolicy => POLICIES[name] ?? { kind: "disconnected" };
const textOf = (policy: ClientFirewallPolicy): string => {
  const table = rulesetFor(mark.table, policy, mark);
  return table === null ? "" : replacementText(table);
};

describe("rulesetFor()", () => {
  for (const [name, policy] of Object.entries(POLICIES)) {
    test(`is what it was for ${name}`, () => {
      expect(textOf(policy)).toBe(golden(`client-${name}`));
    });
  }

  test("has no table for a client that is disconnected and open", () => {
    expect(rulesetFor(mark.table, { kind: "disconnected" }, mark)).toBeNull();
  });

  test("closes the same while it connects and when it is connected, so that taking over changes no packet's fate", () => {
    expect(textOf(policyOf("connecting"))).toBe(textOf(policyOf("connected")));
  });

  test("lets nothing of higgs itself pass while it is blocked or disconnecting", () => {
    expect(textOf(policyOf("blocked"))).toBe(textOf(policyOf("disconnecting")));
    for (const word of ["higgs0", "skuid", "mark", "51820"]) expect(textOf(policyOf("blocked"))).not.toContain(word);
  });

  test("has no rule for a discovery socket that is not there", () => {
    const { discoveryPort: _, ...own } = OWN;
    expect(textOf({ kind: "connected", tunnel: TUNNEL, own, near: ALONE })).not.toContain("51821");
  });

  test("refuses a name that is no interface's", () => {
    const tunnel = { ...TUNNEL, interface: 'x" accept' };
    expect(() => textOf({ kind: "connected", tunnel, own: OWN, near: ALONE })).toThrow("no interface name");
    const near = { bridges: ['x" accept'], lan: null };
    expect(() => textOf({ kind: "blocked", near })).toThrow("no interface name");
  });
});

describe("egressTable()", () => {
  test("stops raw frames on every interface by which frames leave", () => {
    const wanted = { policy: policyOf("connected-lan"), egress: ["wlan0", "eth0"] };
    const table = egressTable(mark.egressTable, wanted, mark);
    expect(table === null ? "" : replacementText(table)).toBe(golden("client-egress"));
  });

  test("is not there for an open machine, nor unasked", () => {
    expect(egressTable("t", { policy: policyOf("exitless"), egress: ["eth0"] }, mark)).toBeNull();
    expect(egressTable("t", { policy: { kind: "disconnected" }, egress: ["eth0"] }, mark)).toBeNull();
    expect(egressTable("t", { policy: policyOf("blocked"), egress: [] }, mark)).toBeNull();
  });
});

describe("nftClientFirewall()", () => {
  const wanted = (name: string, egress: readonly string[] = []): ClientFirewallWanted => ({
    policy: policyOf(name),
    egress,
  });

  function setUp() {
    const nft = new FakeNft();
    const journal = memoryJournal();
    return { nft, journal, firewall: nftClientFirewall({ exec: nft, journal, identifiers: mark, log: silentLogger }) };
  }

  test("loads once, mends, and takes everything away", async () => {
    const { nft, journal, firewall } = setUp();
    await firewall.apply(wanted("connected"), signal);
    await firewall.apply(wanted("connected"), signal);
    expect(nft.loaded).toEqual([golden("client-connected")]);
    expect(journal.printed()).toBe("nft-table");
    nft.tables.get("higgs_client")?.chains.get("output")?.rules.pop();
    expect(await firewall.verify(signal)).toEqual(['The chain "output" of "higgs_client" is not as wanted.']);
    await firewall.apply(wanted("connected"), signal);
    expect(await firewall.verify(signal)).toEqual([]);
    await firewall.reset(signal);
    await firewall.reset(signal);
    expect(nft.printed() + journal.printed()).toBe("");
  });

  test("goes from one situation to the next in one transaction each, and ends with nothing", async () => {
    const { nft, journal, firewall } = setUp();
    for (const name of ["connecting", "connected", "disconnecting", "blocked"]) {
      await firewall.apply(wanted(name), signal);
    }
    // What does not change is not loaded anew.
    expect(nft.loaded).toEqual([golden("client-connecting"), golden("client-blocked")]);
    await firewall.apply({ policy: { kind: "disconnected" }, egress: [] }, signal);
    expect(nft.printed() + journal.printed()).toBe("");
  });

  test("stops raw frames where that was asked for, and no longer when it is not", async () => {
    const { nft, journal, firewall } = setUp();
    await firewall.apply(wanted("blocked", ["eth0"]), signal);
    expect(journal.printed()).toBe("nft-table egress-table");
    expect([...nft.tables.keys()]).toEqual(["higgs_client", "higgs_client_egress"]);
    await firewall.apply(wanted("blocked"), signal);
    expect([...nft.tables.keys()]).toEqual(["higgs_client"]);
    expect(journal.printed()).toBe("nft-table");
  });

  test("tells whether what is loaded closes", async () => {
    const { firewall } = setUp();
    expect(await firewall.closes(signal)).toBe(false);
    await firewall.apply(wanted("exitless"), signal);
    expect(await firewall.closes(signal)).toBe(false);
    await firewall.apply(wanted("disconnecting"), signal);
    expect(await firewall.closes(signal)).toBe(true);
  });

  test("throws when the kernel has something else than what it was given", async () => {
    const { nft, firewall } = setUp();
    const run = nft.run.bind(nft);
    nft.run = async (argv, options) => {
      const result = await run(argv, options);
      if (argv.join(" ") === "nft -f -") nft.tables.get("higgs_client")?.chains.get("forward")?.rules.pop();
      return result;
    };
    const thrown = await firewall.apply(wanted("blocked"), signal).catch((caught: unknown) => caught);
    expect(thrown).toMatchObject({ code: "firewall-not-verified" });
  });
});
