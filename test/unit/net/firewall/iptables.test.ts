// Chains of iptables: put in place whole, found out when they were touched, and taken away without a trace.
import { describe, expect, test } from "bun:test";
import { errorText, HiggsError } from "../../../../src/base/errors.ts";
import type { Exec } from "../../../../src/net/exec.ts";
import {
  chainDifferences,
  type IptablesChain,
  parseSave,
  replacementOf,
} from "../../../../src/net/firewall/iptables-chains.ts";
import {
  findIptables,
  type Iptables,
  listChains,
  loadChains,
  readChains,
  removeChains,
} from "../../../../src/net/firewall/iptables.ts";
import { failureOf } from "../../support/failure.ts";
import { FakeIptables } from "./fake-iptables.ts";

const { signal } = new AbortController();
const prefix = "higgs-client-";
const iptables: Iptables = { family: 4, save: "iptables-save", restore: "iptables-restore" };
const CHAINS: readonly IptablesChain[] = [
  {
    table: "filter",
    name: "higgs-client-out",
    hook: "OUTPUT",
    rules: [
      { match: "-o lo", target: "ACCEPT", why: "this machine itself" },
      { match: "", target: "higgs-client-no", why: "the rest" },
    ],
  },
  {
    table: "filter",
    name: "higgs-client-no",
    hook: null,
    rules: [{ match: "", target: "REJECT --reject-with icmp-admin-prohibited", why: "nothing else" }],
  },
  {
    table: "mangle",
    name: "higgs-client-mark",
    hook: "OUTPUT",
    rules: [{ match: "-p udp", target: "MARK --set-xmark 0x68000/0xff000", why: "ours" }],
  },
];
const OTHERS = "*filter\n:ufw-x - [0:0]\n-A OUTPUT -j ufw-x\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n";

async function machine() {
  const exec = new FakeIptables();
  const type = async (stdin: string): Promise<number> =>
    (await exec.run(["iptables-restore", "--noflush", "-w", "5"], { stdin })).code;
  const shown = async (): Promise<string> => (await exec.run(["iptables-save"])).stdout;
  expect(await type(OTHERS)).toBe(0);
  const load = () => loadChains(exec, { iptables, chains: CHAINS, prefix }, signal);
  return { exec, type, shown, load };
}

describe("replacementOf()", () => {
  test("is one transaction a table, in which the way in is first and everything of ours is new", () => {
    expect(replacementOf(CHAINS, new Map(), prefix)).toBe(
      [
        "*filter",
        ":higgs-client-out - [0:0]",
        ":higgs-client-no - [0:0]",
        '-A higgs-client-out -o lo -m comment --comment "10afd4bc this machine itself" -j ACCEPT',
        '-A higgs-client-out -m comment --comment "c12677af the rest" -j higgs-client-no',
        '-A higgs-client-no -m comment --comment "887c67d8 nothing else" -j REJECT --reject-with icmp-admin-prohibited',
        '-I OUTPUT 1 -m comment --comment "higgs" -j higgs-client-out',
        "COMMIT",
        "*mangle",
        ":higgs-client-mark - [0:0]",
        '-A higgs-client-mark -p udp -m comment --comment "8cbb9c35 ours" -j MARK --set-xmark 0x68000/0xff000',
        '-I OUTPUT 1 -m comment --comment "higgs" -j higgs-client-mark',
        "COMMIT",
        "",
      ].join("\n"),
    );
  });
});

describe("loadChains()", () => {
  test("puts them before everybody else's rules, says what was missing, and does nothing twice", async () => {
    const { exec, load, shown } = await machine();
    expect(await load()).toHaveLength(3);
    const loads = exec.loaded.length;
    expect(await load()).toEqual([]);
    expect(exec.loaded).toHaveLength(loads);
    const rules =
      parseSave(await shown())
        .get("filter")
        ?.get("OUTPUT") ?? [];
    expect(rules.map((rule) => / -j (\S+)/.exec(rule)?.[1])).toEqual(["higgs-client-out", "ufw-x", "ACCEPT"]);
  });

  /** What somebody else types, and what is said of it. */
  const MEDDLING: Readonly<Record<string, { readonly typed: string; readonly said: string }>> = {
    "a rule before ours": {
      typed: "*filter\n-I OUTPUT 1 -j ACCEPT\nCOMMIT\n",
      said: '"OUTPUT" of "filter" does not begin with "higgs-client-out".',
    },
    "our way in gone": {
      typed: '*filter\n-D OUTPUT -m comment --comment "higgs" -j higgs-client-out\nCOMMIT\n',
      said: '"OUTPUT" of "filter" does not begin with "higgs-client-out".',
    },
    "an emptied chain": {
      typed: "*filter\n-F higgs-client-no\nCOMMIT\n",
      said: 'The chain "higgs-client-no" of "filter" is not as wanted.',
    },
    "a rule more": {
      typed: "*filter\n-A higgs-client-out -j ACCEPT\nCOMMIT\n",
      said: 'The chain "higgs-client-out" of "filter" is not as wanted.',
    },
    "a chain more": {
      typed: "*mangle\n:higgs-client-new - [0:0]\nCOMMIT\n",
      said: 'The table "mangle" has a stranger named "higgs-client-new".',
    },
    "a second way in": {
      typed: "*filter\n-A INPUT -j higgs-client-out\nCOMMIT\n",
      said: 'The table "filter" leads to "higgs-client-…" more than once.',
    },
  };
  for (const [name, { typed, said }] of Object.entries(MEDDLING)) {
    test(`mends ${name}, and leaves everybody else's rules`, async () => {
      const { exec, type, load } = await machine();
      await load();
      expect(await type(typed)).toBe(0);
      expect(await load()).toEqual([said]);
      const saved = await readChains(exec, iptables, signal);
      expect(chainDifferences(CHAINS, saved, prefix)).toEqual([]);
      const rules = saved.get("filter")?.get("OUTPUT") ?? [];
      expect(rules).toContain("-A OUTPUT -j ufw-x");
      expect(rules).toContain("-A OUTPUT -p tcp -j ACCEPT");
    });
  }
});

test("two roles of one machine both begin a chain, and neither puts the other's way in behind its own for ever", async () => {
  const { exec, load } = await machine();
  const other = [{ ...CHAINS[0], name: "higgs-node-out", rules: [] }] as readonly IptablesChain[];
  const loadOther = () => loadChains(exec, { iptables, chains: other, prefix: "higgs-node-" }, signal);
  await load();
  expect(await loadOther()).toHaveLength(1);
  expect([await load(), await loadOther()]).toEqual([[], []]);
});

test("removeChains() leaves what was before, byte for byte, and the other role's chains", async () => {
  const { exec, type, load, shown } = await machine();
  await type("*mangle\nCOMMIT\n");
  await type('*filter\n:higgs-node-fwd - [0:0]\n-I FORWARD 1 -m comment --comment "higgs" -j higgs-node-fwd\nCOMMIT\n');
  const before = await shown();
  await load();
  expect(await shown()).not.toBe(before);
  expect(await removeChains(exec, prefix, signal)).toBe(true);
  expect(await shown()).toBe(before);
  expect(await removeChains(exec, prefix, signal)).toBe(false);
});

/** As somebody does who flushes all rules, and only once. */
function flushing(exec: FakeIptables): void {
  exec.beforeLoad = () => {
    exec.beforeLoad = () => undefined;
    exec.families.iptables.clear();
  };
}

test("bug: chains that somebody flushed just now kept removeChains() from what it was to do", async () => {
  const { exec, load, shown } = await machine();
  await load();
  flushing(exec);
  expect(await removeChains(exec, prefix, signal)).toBe(true);
  expect(await shown()).toBe("");
});

test("bug: chains that somebody flushed just now kept loadChains() from closing", async () => {
  const { exec, type, load } = await machine();
  await load();
  await type("*filter\n-F higgs-client-out\nCOMMIT\n");
  flushing(exec);
  expect(await load()).toHaveLength(3);
  const saved = await readChains(exec, iptables, signal);
  expect(chainDifferences(CHAINS, saved, prefix)).toEqual([]);
});

test("bug: one family's command that fails kept removeChains() from the other's chains", async () => {
  const { exec, load } = await machine();
  await load();
  const six = { family: 6, save: "ip6tables-save", restore: "ip6tables-restore" } as const;
  await loadChains(exec, { iptables: six, chains: CHAINS, prefix }, signal);
  exec.beforeLoad = (command) =>
    command === "iptables-restore" ? "Another app is holding the xtables lock." : undefined;
  expect(errorText(await failureOf(removeChains(exec, prefix, signal)))).toContain("holding the xtables lock");
  expect((await exec.run(["ip6tables-save"])).stdout).not.toContain("higgs");
  expect(exec.loaded.filter((text) => text.startsWith("iptables-restore"))).toHaveLength(3); // not again and again
});

test("listChains() shows every line of ours, by table", async () => {
  const { exec, load } = await machine();
  await load();
  const found = await listChains(exec, prefix, signal);
  expect(found.map(({ what, lines }) => [what, lines.length])).toEqual([
    ["iptables chains higgs-client-* of filter", 4],
    ["iptables chains higgs-client-* of mangle", 2],
  ]);
});

describe("findIptables()", () => {
  const needs = { ipv6: true, trial: () => CHAINS.map((chain) => ({ ...chain, hook: null })) };

  const troubleOf = async (exec: Exec): Promise<string> => {
    const found = await findIptables(exec, needs, signal);
    if (!(found instanceof HiggsError)) throw new Error("It was found.");
    return found.message;
  };

  test("takes the first that does all that is needed, in both families, and leaves nothing of the trial", async () => {
    const exec = new FakeIptables("iptables-legacy");
    expect(await findIptables(exec, needs, signal)).toEqual([
      { family: 4, save: "iptables-legacy-save", restore: "iptables-legacy-restore" },
      { family: 6, save: "ip6tables-legacy-save", restore: "ip6tables-legacy-restore" },
    ]);
    for (const command of ["iptables-legacy-save", "ip6tables-legacy-save"] as const) {
      expect((await exec.run([command])).stdout).not.toContain("higgs");
    }
  });

  test("needs no IPv6 where the kernel has none", async () => {
    const found = await findIptables(new FakeIptables(), { ...needs, ipv6: false }, signal);
    expect(found).toEqual([iptables]);
  });

  test("says which part is missing", async () => {
    const exec = new FakeIptables();
    exec.unknown.add("MARK");
    expect(await troubleOf(exec)).toContain("Couldn't load match");
  });

  test("says so where there is none at all", async () => {
    const none: Exec = { run: (argv, options) => new FakeIptables().run([`no-${argv[0]}`], options) };
    expect(await troubleOf(none)).toContain('the tool "iptables"');
  });
});
