// The client's firewall by iptables: its rules as golden files, as tight as its nft twin's, and over an iptables that remembers.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import type { Family } from "../../../../src/base/ip.ts";
import { type Exec, toolMissing } from "../../../../src/net/exec.ts";
import type { ClientFirewallWanted } from "../../../../src/net/firewall/client.ts";
import { findClientFirewall } from "../../../../src/net/firewall/client-mechanism.ts";
import { serviceTrouble } from "../../../../src/net/firewall/mechanism.ts";
import { rulesetFor } from "../../../../src/net/firewall/client-table.ts";
import type { Iptables } from "../../../../src/net/firewall/iptables.ts";
import { type IptablesChain, replacementOf } from "../../../../src/net/firewall/iptables-chains.ts";
import { iptablesClientFirewall } from "../../../../src/net/firewall/iptables-client.ts";
import { clientChains, clientTrial } from "../../../../src/net/firewall/iptables-client-chains.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { memoryJournal } from "../memory-journal.ts";
import { ALONE, OWN, POLICIES, TUNNEL } from "./client-policies.ts";
import { FakeIptables } from "./fake-iptables.ts";
import { FakeNft } from "./fake-nft.ts";

const { signal } = new AbortController();
const names = IDENTIFIERS.client;
const FAMILIES = [4, 6] as const;
const golden = (name: string): string => readFileSync(join(import.meta.dir, "golden", name), "utf8");
const policyOf = (name: string) => POLICIES[name] ?? { kind: "disconnected" as const };
const textOf = (name: string, family: Family): string =>
  replacementOf(clientChains(policyOf(name), family, names), new Map(), names.chainPrefix);
const chainOf = (name: string, family: Family, end: string): IptablesChain | undefined =>
  clientChains(policyOf(name), family, names).find((chain) => chain.name === `${names.chainPrefix}${end}`);

/** The chain of the nft table that says the same. */
const TWINS: Readonly<Record<string, readonly string[]>> = {
  out: ["output"],
  in: ["input"],
  fwd: ["forward"],
  "mark-out": ["mark_out", "keep_mark"],
  "mark-pre": ["put_mark"],
};

describe("clientChains()", () => {
  for (const name of Object.keys(POLICIES)) {
    for (const family of FAMILIES) {
      test(`are what they were for ${name} in IPv${family}`, () => {
        expect(textOf(name, family)).toBe(golden(`client-${name}.iptables${family}`));
      });
    }

    test(`have a rule for each of the nft table's, and no more, for ${name}`, () => {
      const table = rulesetFor(names.table, policyOf(name), names);
      const found = new Map<string, Set<string>>();
      for (const family of FAMILIES) {
        for (const [end, twins] of Object.entries(TWINS)) {
          const whys = found.get(twins.join()) ?? new Set();
          for (const { why } of chainOf(name, family, end)?.rules ?? []) whys.add(why);
          found.set(twins.join(), whys);
        }
      }
      for (const twins of Object.values(TWINS)) {
        const chains = table?.chains.filter((chain) => twins.includes(chain.name)) ?? [];
        const wanted = new Set(chains.flatMap((chain) => chain.rules.map(({ why }) => why)));
        // What nft says by the chain's policy, or by an interface that a rule leaves out, takes a rule of its own here.
        const more = [...(found.get(twins.join()) ?? [])].filter((why) => !wanted.has(why));
        const known = ["nothing else", "the tunnel", "this machine itself"];
        expect({ chain: twins, more: more.filter((why) => !known.includes(why)) }).toEqual({ chain: twins, more: [] });
        const missing = [...wanted].filter((why) => found.get(twins.join())?.has(why) !== true);
        expect({ chain: twins, missing }).toEqual({ chain: twins, missing: [] });
      }
    });
  }

  test("close what the nft table closes: each way through the machine ends with a refusal, in both families", () => {
    for (const [name, policy] of Object.entries(POLICIES)) {
      const closes = policy.kind !== "disconnected" && policy.kind !== "exitless";
      for (const family of FAMILIES) {
        for (const end of ["out", "in", "fwd"]) {
          const last = chainOf(name, family, end)?.rules.at(-1);
          expect([name, end, last?.match, /^(DROP|REJECT)/.test(last?.target ?? "")]).toEqual(
            closes ? [name, end, "", true] : [name, end, undefined, false],
          );
        }
      }
    }
  });

  test("let nothing past other programs' rules, and never pass everything", () => {
    for (const [name, policy] of Object.entries(POLICIES)) {
      for (const chain of FAMILIES.flatMap((family) => clientChains(policy, family, names))) {
        for (const { match, target } of chain.rules) {
          expect(target).toMatch(/^(RETURN|DROP|REJECT|MARK|CONNMARK)( |$)/);
          if (match === "") expect([name, target]).not.toEqual([name, "RETURN"]);
        }
        expect(chain.name.length).toBeLessThanOrEqual(28);
      }
    }
  });

  test("let nothing of higgs itself pass while it is blocked or disconnecting", () => {
    for (const family of FAMILIES) {
      expect(textOf("blocked", family)).toBe(textOf("disconnecting", family));
      for (const word of ["higgs0", "owner", "mark ", "51820"]) expect(textOf("blocked", family)).not.toContain(word);
    }
  });

  test("close the same while it connects and when it is connected", () => {
    for (const family of FAMILIES) expect(textOf("connecting", family)).toBe(textOf("connected", family));
  });

  test("have no rule for a discovery socket that is not there", () => {
    const { discoveryPort: _, ...own } = OWN;
    const chains = clientChains({ kind: "connected", tunnel: TUNNEL, own, near: ALONE }, 4, names);
    expect(JSON.stringify(chains)).not.toContain("51821");
  });

  test("refuse a name that is no interface's", () => {
    for (const bad of ["eth+", "x -j ACCEPT", "!x", "-x"]) {
      expect(() => clientChains({ kind: "blocked", near: { bridges: [bad], lan: null } }, 4, names)).toThrow(
        "no interface name",
      );
    }
  });

  test("need nothing of the kernel that the trial does not try", () => {
    const words = (chains: readonly IptablesChain[]): ReadonlySet<string> =>
      new Set(chains.flatMap(({ table, rules }) => rules.flatMap((rule) => wordsOf(table, rule))));
    for (const family of FAMILIES) {
      const tried = words(clientTrial(family, names));
      for (const [name, policy] of Object.entries(POLICIES)) {
        const untried = [...words(clientChains(policy, family, names))].filter((word) => !tried.has(word));
        expect([name, family, untried]).toEqual([name, family, []]);
      }
      expect(clientTrial(family, names).every(({ hook }) => hook === null)).toBe(true);
    }
  });
});

function wordsOf(table: string, { match, target }: { readonly match: string; readonly target: string }): string[] {
  return [...match.matchAll(/-[mp] \S+/g), ...target.matchAll(/^.*$/g)].map(([word]) => `${table} ${word}`);
}

const COMMANDS: readonly Iptables[] = [
  { family: 4, save: "iptables-save", restore: "iptables-restore" },
  { family: 6, save: "ip6tables-save", restore: "ip6tables-restore" },
];
const wanted = (name: string, egress: readonly string[] = []): ClientFirewallWanted => ({
  policy: policyOf(name),
  egress,
});
const OTHERS = "*filter\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n*mangle\nCOMMIT\n";

async function setUp() {
  const iptables = new FakeIptables();
  for (const { restore } of COMMANDS) {
    await iptables.run([restore, "--noflush", "-w", "5"], { stdin: OTHERS });
  }
  iptables.loaded.length = 0;
  const journal = memoryJournal();
  const deps = { exec: iptables, journal, identifiers: names, log: silentLogger };
  const shown = async (): Promise<string> =>
    (await Promise.all(COMMANDS.map(({ save }) => iptables.run([save])))).map(({ stdout }) => stdout).join("");
  const before = await shown();
  return { iptables, journal, shown, before, firewall: iptablesClientFirewall({ ...deps, commands: COMMANDS }) };
}

describe("iptablesClientFirewall()", () => {
  test("loads once, mends, and takes everything away", async () => {
    const { iptables, journal, shown, before, firewall } = await setUp();
    await firewall.apply(wanted("connected"), signal);
    await firewall.apply(wanted("connected"), signal);
    expect(iptables.loaded).toHaveLength(2);
    expect(journal.printed()).toBe("iptables-chains");
    iptables.families.ip6tables.get("filter")?.get("higgs-client-out")?.pop();
    iptables.families.iptables.get("filter")?.get("OUTPUT")?.unshift("-A OUTPUT -j ACCEPT");
    expect(await firewall.verify(signal)).toEqual([
      'IPv4: "OUTPUT" of "filter" does not begin with "higgs-client-out".',
      'IPv6: The chain "higgs-client-out" of "filter" is not as wanted.',
    ]);
    await firewall.apply(wanted("connected"), signal);
    expect(await firewall.verify(signal)).toEqual([]);
    iptables.families.iptables.get("filter")?.get("OUTPUT")?.splice(1, 1);
    await firewall.reset(signal);
    await firewall.reset(signal);
    expect([await shown(), journal.printed()]).toEqual([before, ""]);
  });

  test("goes from one situation to the next, and ends with nothing", async () => {
    const { iptables, journal, shown, before, firewall } = await setUp();
    for (const name of ["connecting", "connected", "disconnecting", "blocked"]) {
      await firewall.apply(wanted(name), signal);
    }
    // What does not change is not loaded anew: two families, twice.
    expect(iptables.loaded).toHaveLength(4);
    await firewall.apply(wanted("disconnected"), signal);
    expect([await shown(), journal.printed()]).toEqual([before, ""]);
  });

  test("closes the family that it can close, and says what is wrong with the other", async () => {
    for (const [broken, whole] of [
      ["ip6tables", "iptables"],
      ["iptables", "ip6tables"],
    ] as const) {
      const { iptables, journal, firewall } = await setUp();
      const run = iptables.run.bind(iptables);
      iptables.run = async (argv, options) =>
        argv[0] === `${broken}-restore` ? { code: 4, stdout: "", stderr: "broken" } : await run(argv, options);
      const thrown = await firewall.apply(wanted("blocked"), signal).catch((caught: unknown) => caught);
      expect(thrown).toMatchObject({ code: "iptables-unusable" });
      expect(iptables.families[whole].get("filter")?.get("OUTPUT")?.[0]).toContain("higgs-client-out");
      expect(await firewall.closes(signal)).toBe(true);
      expect(journal.printed()).toBe("iptables-chains");
    }
  });

  test("refuses to stop raw frames, with the reason, once everything else is closed", async () => {
    const { firewall } = await setUp();
    const thrown = await firewall.apply(wanted("blocked", ["eth0"]), signal).catch((caught: unknown) => caught);
    expect(thrown).toMatchObject({ code: "raw-frames-pass" });
    expect(await firewall.closes(signal)).toBe(true);
    await firewall.apply({ policy: { kind: "disconnected" }, egress: ["eth0"] }, signal);
  });

  test("tells whether what is loaded closes", async () => {
    const { firewall } = await setUp();
    expect(await firewall.closes(signal)).toBe(false);
    await firewall.apply(wanted("exitless"), signal);
    expect(await firewall.closes(signal)).toBe(false);
    await firewall.apply(wanted("disconnecting"), signal);
    expect(await firewall.closes(signal)).toBe(true);
  });

  test("throws when the kernel has something else than what it was given", async () => {
    const { iptables, firewall } = await setUp();
    const run = iptables.run.bind(iptables);
    iptables.run = async (argv, options) => {
      const result = await run(argv, options);
      if (argv[0].endsWith("-restore")) iptables.families.ip6tables.get("filter")?.get("higgs-client-fwd")?.pop();
      return result;
    };
    const thrown = await firewall.apply(wanted("blocked"), signal).catch((caught: unknown) => caught);
    expect(thrown).toMatchObject({ code: "firewall-not-verified" });
  });
});

/** A machine with nft, iptables of both kinds, or some of them: one may come and another go between two runs. */
class Machine implements Exec {
  readonly nft = new FakeNft();
  readonly iptables = { nft: new FakeIptables("iptables"), legacy: new FakeIptables("iptables-legacy") };
  readonly has = { nft: true, iptables: true, legacy: true };
  /** As `removingWithoutNft` makes it. */
  removesTables = false;

  run(...[argv, options]: Parameters<Exec["run"]>): ReturnType<Exec["run"]> {
    const [command] = argv;
    const isThere = this.has.nft || (this.removesTables && argv[1] === "delete");
    if (command === "nft") return isThere ? this.nft.run(argv, options) : Promise.reject(toolMissing("nft"));
    if (/^ip6?tables-legacy-/.test(command)) {
      return this.has.legacy ? this.iptables.legacy.run(argv, options) : Promise.reject(toolMissing(command));
    }
    return this.has.iptables ? this.iptables.nft.run(argv, options) : Promise.reject(toolMissing(command));
  }

  rules(): { readonly nft: boolean; readonly iptables: boolean; readonly legacy: boolean } {
    const ours = (one: FakeIptables): boolean => one.families.iptables.get("filter")?.has("higgs-client-out") === true;
    return {
      nft: this.nft.tables.has("higgs_client"),
      iptables: ours(this.iptables.nft),
      legacy: ours(this.iptables.legacy),
    };
  }
}

const start = async (exec: Machine, journal = memoryJournal()) => ({
  ...(await findClientFirewall({ exec, journal, identifiers: names, log: silentLogger }, signal)),
  journal,
});

describe("findClientFirewall()", () => {
  test("takes nft, or iptables where there is none, or says why there is neither", async () => {
    const exec = new Machine();
    expect((await start(exec)).mechanism.kind).toBe("nft");
    exec.has.nft = false;
    expect((await start(exec)).mechanism).toMatchObject({ kind: "iptables", commands: COMMANDS });
    exec.has.iptables = false;
    expect((await start(exec)).mechanism).toMatchObject({ commands: [{ save: "iptables-legacy-save" }, {}] });
    exec.has.legacy = false;
    const { mechanism, firewall } = await start(exec);
    expect(mechanism).toMatchObject({ kind: "none", trouble: { code: "tool-missing" } });
    expect(await firewall.apply(wanted("blocked"), signal).catch((caught: unknown) => caught)).toMatchObject({
      message: 'Cannot find the tool "nft" on this machine. Cannot find the tool "iptables" on this machine.',
    });
  });

  for (const before of ["iptables", "legacy"] as const) {
    test(`finds a lockdown by ${before} once nft is there, and nft closes alone from then on`, async () => {
      const exec = new Machine();
      exec.has.nft = false;
      if (before === "legacy") exec.has.iptables = false;
      const { firewall: old } = await start(exec);
      await old.apply(wanted("blocked"), signal);
      exec.has.nft = true;
      exec.has.iptables = true;
      const { firewall, journal } = await start(exec, memoryJournal([{ kind: "iptables-chains" }]));
      expect(await firewall.closes(signal)).toBe(true);
      await firewall.apply(wanted("blocked"), signal);
      expect(exec.rules()).toEqual({ nft: true, iptables: false, legacy: false });
      expect(journal.printed()).toBe("nft-table");
    });
  }

  test("finds a lockdown by the older iptables once the newer is this machine's own", async () => {
    const exec = new Machine();
    Object.assign(exec.has, { nft: false, iptables: false });
    await (await start(exec)).firewall.apply(wanted("blocked"), signal);
    exec.has.iptables = true;
    const { firewall } = await start(exec);
    expect(await firewall.closes(signal)).toBe(true);
    await firewall.apply(wanted("blocked"), signal);
    expect(exec.rules()).toEqual({ nft: false, iptables: true, legacy: false });
    await firewall.reset(signal);
    expect(exec.rules()).toEqual({ nft: false, iptables: false, legacy: false });
  });

  test("says that nft's rules are in force where nft has gone, and never that the machine is open", async () => {
    const exec = new Machine();
    const { firewall: old, journal } = await start(exec);
    await old.apply(wanted("blocked"), signal);
    exec.has.nft = false;
    const { firewall } = await start(exec, journal);
    expect(await firewall.closes(signal)).toBe(true);
    expect((await firewall.verify(signal).catch((caught: unknown) => caught)) instanceof Error).toBe(true); // nothing applied yet
    for (const work of ["blocked", "connected", "disconnected"]) {
      const thrown = await firewall.apply(wanted(work), signal).catch((caught: unknown) => caught);
      expect([work, thrown]).toMatchObject([work, { code: "nft-left" }]);
    }
    expect(await firewall.verify(signal)).toContain("The nft table inet higgs_client is in force besides.");
    expect(journal.printed()).toContain("nft-table");
  });

  test("takes nft's rules away where nft has gone and the kernel does it", async () => {
    const exec = new Machine();
    const { firewall: old, journal } = await start(exec);
    await old.apply(wanted("blocked"), signal);
    exec.has.nft = false;
    exec.removesTables = true;
    const { firewall } = await start(exec, journal);
    await firewall.apply(wanted("blocked"), signal);
    expect(exec.rules()).toEqual({ nft: false, iptables: true, legacy: false });
    expect(journal.printed()).toBe("iptables-chains");
  });
});

describe("serviceTrouble()", () => {
  test("is none with nft or iptables over nf_tables, and tells of root where the older iptables is alone", async () => {
    const exec = new Machine();
    const trial = (family: Family) => clientTrial(family, names);
    const told = () => serviceTrouble(exec, { identifiers: names, trial, byHand: "by hand" }, signal);
    expect(await told()).toBeNull();
    exec.has.nft = false;
    expect(await told()).toBeNull();
    exec.has.iptables = false;
    expect(await told()).toMatchObject({ code: "service-refused" });
    expect((await start(exec)).mechanism.kind).toBe("iptables"); // what root may use
    exec.has.legacy = false;
    expect((await told())?.message).toContain('the tool "nft"');
  });
});
