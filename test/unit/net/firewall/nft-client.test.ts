// The client's firewall over an nft that remembers.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import type { ClientFirewallPolicy } from "../../../../src/net/firewall/client.ts";
import { clientTable } from "../../../../src/net/firewall/client-table.ts";
import { nftClientFirewall } from "../../../../src/net/firewall/nft-client.ts";
import { replacementText } from "../../../../src/net/firewall/nft-table.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { memoryJournal } from "../memory-journal.ts";
import { ip } from "./exit-policy.ts";
import { FakeNft } from "./fake-nft.ts";

const { signal } = new AbortController();
const golden = (name: string): string => readFileSync(join(import.meta.dir, "golden", name), "utf8");

const POLICY: ClientFirewallPolicy = {
  kind: "connected",
  interface: "higgs0",
  addresses: [ip("10.83.0.2"), ip("fd83:1:2::2")],
  carrier: [
    { address: ip("203.0.113.10"), port: 443 },
    { address: ip("2001:db8:10::10"), port: 8443 },
  ],
  uid: 997,
  discoveryPort: 51821,
};

describe("clientTable()", () => {
  test("marks what goes past the tunnel and its answers", () => {
    expect(replacementText(clientTable("higgs_client", { policy: POLICY, mark: IDENTIFIERS.client }))).toBe(
      golden("client.nft"),
    );
  });

  test("has no rule for a discovery socket that is not there", () => {
    const { discoveryPort: _, ...policy } = POLICY;
    expect(replacementText(clientTable("higgs_client", { policy, mark: IDENTIFIERS.client }))).not.toContain("udp");
  });

  test("refuses a name that is no interface's", () => {
    const policy = { ...POLICY, interface: 'x" accept' };
    expect(() => clientTable("higgs_client", { policy, mark: IDENTIFIERS.client })).toThrow("no interface name");
  });
});

describe("nftClientFirewall()", () => {
  test("loads once, mends, and takes everything away", async () => {
    const nft = new FakeNft();
    const journal = memoryJournal();
    const firewall = nftClientFirewall({ exec: nft, journal, identifiers: IDENTIFIERS.client, log: silentLogger });
    await firewall.apply(POLICY, signal);
    await firewall.apply(POLICY, signal);
    expect(nft.loaded).toEqual([golden("client.nft")]);
    expect(journal.printed()).toBe("nft-table");
    nft.tables.get("higgs_client")?.chains.get("put_mark")?.rules.pop();
    expect(await firewall.verify(signal)).toEqual(['The chain "put_mark" of "higgs_client" is not as wanted.']);
    await firewall.apply(POLICY, signal);
    expect(await firewall.verify(signal)).toEqual([]);
    await firewall.reset(signal);
    await firewall.reset(signal);
    expect(nft.printed() + journal.printed()).toBe("");
  });
});
