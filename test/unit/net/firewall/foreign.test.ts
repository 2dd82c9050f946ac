// Which chains of others swallow what an exit forwards, from recorded rulesets.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { exitDropsIn, forwardDropsIn, letPass } from "../../../../src/net/firewall/foreign.ts";
import { commandsOf } from "../../../../src/net/firewall/iptables.ts";
import { iptablesForeignDrops } from "../../../../src/net/firewall/iptables-foreign.ts";
import { FakeIptables } from "./fake-iptables.ts";

const recorded = (name: string): unknown =>
  JSON.parse(readFileSync(join(import.meta.dir, "recorded", `${name}.json`), "utf8"));

describe("forwardDropsIn()", () => {
  test("names the chain of a host firewall that forwards nothing", () => {
    expect(forwardDropsIn(recorded("iptables-forward-drop"), "higgsn0")).toEqual([
      'The chain "FORWARD" of the nft table "ip filter" drops what this machine forwards.',
    ]);
  });

  test("is content where a person let our interface through", () => {
    expect(forwardDropsIn(recorded("iptables-forward-drop-accepted"), "higgsn0")).toEqual([]);
  });

  test("takes no offence at our own table", () => {
    expect(forwardDropsIn(recorded("higgs-node"), "higgsn0")).toEqual([]);
  });

  test("bug: follows firewalld's zones: an interface of the trusted one is let through, whatever its base chains end in", () => {
    expect(exitDropsIn(recorded("firewalld-trusted"), "higgsn0")).toEqual([]);
    const another: unknown = JSON.parse(JSON.stringify(recorded("firewalld-trusted")).replaceAll("higgsn0", "eth9"));
    const closed = exitDropsIn(another, "higgsn0");
    expect(closed).toEqual([
      'The chain "filter_INPUT" of the nft table "inet firewalld" drops what clients ask its resolver.',
      'The chain "filter_FORWARD" of the nft table "inet firewalld" drops what this machine forwards.',
    ]);
    for (const sentence of closed) expect(letPass(sentence, "higgsn0")).toContain("--add-interface=higgsn0");
  });

  /** As `nft -j list ruleset` shows a table with one chain. */
  const listing = (chain: object, ...rules: readonly object[][]): unknown => ({
    nftables: [
      { chain: { family: "inet", table: "wall", name: "c", ...chain } },
      ...rules.map((expr) => ({ rule: { family: "inet", table: "wall", chain: "c", expr } })),
    ],
  });
  const established = [{ match: { op: "in", left: { ct: { key: "state" } }, right: "established" } }, { accept: null }];

  test("names a chain that ends in a rejection, whatever its policy says", () => {
    const forward = { hook: "forward", policy: "accept" };
    expect(forwardDropsIn(listing(forward, established, [{ counter: {} }, { reject: {} }]), "higgsn0")).toEqual([
      'The chain "c" of the nft table "inet wall" drops what this machine forwards.',
    ]);
    const conditional = [{ match: { op: "==", left: { meta: { key: "iifname" } }, right: "eth1" } }, { drop: null }];
    expect(forwardDropsIn(listing(forward, established, conditional), "higgsn0")).toEqual([]);
  });

  test("names a chain that keeps clients from the resolver", () => {
    const input = listing({ hook: "input", policy: "drop" }, established);
    expect(exitDropsIn(input, "higgsn0")).toEqual([
      'The chain "c" of the nft table "inet wall" drops what clients ask its resolver.',
    ]);
    expect(forwardDropsIn(input, "higgsn0")).toEqual([]); // of no interest to who only forwards
  });
});

describe("iptablesForeignDrops()", () => {
  const commands = commandsOf("iptables-legacy");
  const type = (exec: FakeIptables, stdin: string) =>
    exec.run(["iptables-legacy-restore", "--noflush", "-w", "5"], { stdin });
  const drops = (exec: FakeIptables, own = commands) =>
    iptablesForeignDrops(exec, { commands: own, tunnel: "higgsn0" }, AbortSignal.timeout(5000));
  const forwards = 'The chain "FORWARD" of "iptables-legacy" drops what this machine forwards.';

  test("names the chain by its tool, until a person lets the tunnel through, and says so behind our own rules", async () => {
    const exec = new FakeIptables("iptables-legacy");
    await type(exec, "*filter\nCOMMIT\n");
    expect(await drops(exec)).toEqual([]);
    await type(exec, "*filter\n-A FORWARD -j REJECT\nCOMMIT\n");
    expect(await drops(exec)).toEqual([forwards]);
    expect(letPass(forwards, "higgsn0")).toBe(
      "sudo iptables-legacy -I FORWARD 2 -i higgsn0 -j ACCEPT && " +
        "sudo iptables-legacy -I FORWARD 2 -o higgsn0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    );
    await type(exec, "*filter\n-I FORWARD 1 -i higgsn0 -j ACCEPT\nCOMMIT\n");
    expect(await drops(exec)).toEqual([]);
  });

  test("sees the other kind of iptables, where our rules are not", async () => {
    const [legacy, nft] = [new FakeIptables("iptables-legacy"), new FakeIptables("iptables-nft")];
    const both = {
      run: (argv: readonly [string, ...string[]], options?: { stdin?: string }) =>
        (argv[0].includes("-nft-") ? nft : legacy).run(argv, options),
    } as FakeIptables;
    await type(both, "*filter\n-A FORWARD -j DROP\nCOMMIT\n");
    const [said = "", ...more] = await drops(both, commandsOf("iptables-nft"));
    expect([said, more]).toEqual([forwards.replace(" drops", ", which is in force besides, drops"), []]);
    expect(letPass(said, "higgsn0")).toStartWith("sudo iptables-legacy -I FORWARD -i higgsn0 -j ACCEPT && ");
  });
});

describe("letPass()", () => {
  test("says what to type, in the words of whoever made the rules", () => {
    const told = (table: string, chain: string, what: string): string | null =>
      letPass(`The chain "${chain}" of the nft table "${table}" drops what ${what}.`, "higgsn0");
    expect(told("ip filter", "FORWARD", "this machine forwards")).toBe(
      "sudo iptables -I FORWARD -i higgsn0 -j ACCEPT && " +
        "sudo iptables -I FORWARD -o higgsn0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    );
    expect(told("ip6 filter", "INPUT", "clients ask its resolver")).toBe(
      "sudo ip6tables -I INPUT -i higgsn0 -j ACCEPT",
    );
    expect(told("inet wall", "c", "this machine forwards")).toBe(
      "sudo nft insert rule inet wall c iifname higgsn0 accept && " +
        "sudo nft insert rule inet wall c oifname higgsn0 ct state established,related accept",
    );
    expect(letPass("This machine has no IPv4 default route.", "higgsn0")).toBeNull();
  });
});
