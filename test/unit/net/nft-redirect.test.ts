// The redirect over an nft that remembers.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { silentLogger } from "../../../src/base/log.ts";
import { replacementText } from "../../../src/net/firewall/nft-table.ts";
import { IDENTIFIERS } from "../../../src/net/identifiers.ts";
import { nftRedirect } from "../../../src/net/nft-redirect.ts";
import type { RedirectPolicy } from "../../../src/net/redirect.ts";
import { redirectTable } from "../../../src/net/redirect-table.ts";
import { ip } from "./firewall/exit-policy.ts";
import { FakeNft } from "./firewall/fake-nft.ts";
import { memoryJournal } from "./memory-journal.ts";

const { signal } = new AbortController();
const GOLDEN = readFileSync(join(import.meta.dir, "golden/redirect.nft"), "utf8");
const SIDES = readFileSync(join(import.meta.dir, "golden/redirect-sides.nft"), "utf8");
const at = (address: string, port: number) => ({ address: ip(address), port });

const POLICY: RedirectPolicy = {
  wireGuardPort: 51820,
  redirects: [
    { from: at("203.0.113.10", 40000), to: at("198.51.100.7", 51820) },
    { from: at("2001:db8:10::10", 40000), to: at("2001:db8:7::7", 51820) },
  ],
  dropFrom: [at("203.0.113.10", 40001), at("192.168.1.10", 51820), at("2001:db8:66::2", 51820)],
};
const NOTHING: RedirectPolicy = { wireGuardPort: 51820, redirects: [], dropFrom: [] };

function made() {
  const nft = new FakeNft();
  const journal = memoryJournal();
  return {
    nft,
    journal,
    redirect: nftRedirect({ exec: nft, journal, identifiers: IDENTIFIERS.node, log: silentLogger }),
  };
}

describe("redirectTable()", () => {
  test("gives packets that leave by another link our address there", () => {
    const redirects = [{ from: at("198.51.100.1", 1), to: at("10.99.0.10", 2), source: ip("10.99.0.2") }];
    const [leaving] = redirectTable("t", { ...NOTHING, redirects })?.chains ?? [];
    expect(leaving?.rules.at(-1)?.text).toBe(
      "ip daddr 198.51.100.1 udp dport 1 ip saddr set 10.99.0.2 ip daddr set 10.99.0.10 udp dport set 2 accept",
    );
  });

  test("turns WireGuard's packets to new paths, and drops those from paths that were given up", () => {
    const table = redirectTable("higgs_node_redirect", POLICY);
    expect(table === null ? "" : replacementText(table)).toBe(GOLDEN);
  });

  test("gives a side port to WireGuard's packets for one peer, and hands back what is not STUN", () => {
    const sides = [
      { port: 40123, peer: at("198.51.100.7", 51820), leaves: true },
      { port: 40124, peer: at("198.51.100.7", 51820), leaves: false },
    ];
    const table = redirectTable("higgs_node_redirect", { ...NOTHING, sides });
    expect(table === null ? "" : replacementText(table)).toBe(SIDES);
  });

  test("is none for a policy that wants nothing, and refuses to change the family", () => {
    expect(redirectTable("t", NOTHING)).toBe(null);
    const redirects = [{ from: at("203.0.113.10", 1), to: at("2001:db8::1", 1) }];
    expect(() => redirectTable("t", { ...NOTHING, redirects })).toThrow("different families");
  });
});

describe("nftRedirect()", () => {
  test("loads once, mends what was flushed, and goes with its last redirect", async () => {
    const { nft, journal, redirect } = made();
    await redirect.apply(POLICY, signal);
    await redirect.apply(POLICY, signal);
    expect(nft.loaded).toEqual([GOLDEN]);
    expect(journal.printed()).toBe("redirect-table");
    nft.tables.clear();
    await redirect.apply(POLICY, signal);
    expect(nft.loaded).toHaveLength(2);
    await redirect.apply(NOTHING, signal);
    expect(nft.printed() + journal.printed()).toBe("");
  });

  test("takes away what an earlier process left", async () => {
    const { nft, redirect } = made();
    await redirect.apply(POLICY, signal);
    const next = nftRedirect({ exec: nft, journal: memoryJournal(), identifiers: IDENTIFIERS.node, log: silentLogger });
    await next.apply(NOTHING, signal);
    expect(nft.printed()).toBe("");
    await redirect.reset(signal);
    await redirect.reset(signal);
    expect(nft.printed()).toBe("");
  });
});
