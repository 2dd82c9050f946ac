// The exit's firewall over an iptables that remembers: chains of both families, the lease that a datagram renews, clients, differences.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { HiggsError } from "../../../../src/base/errors.ts";
import type { Family } from "../../../../src/base/ip.ts";
import { silentLogger } from "../../../../src/base/log.ts";
import { FirewallNotLoaded } from "../../../../src/net/firewall/errors.ts";
import type { ExitPolicy } from "../../../../src/net/firewall/exit.ts";
import { findIptables, type Iptables } from "../../../../src/net/firewall/iptables.ts";
import { replacementOf } from "../../../../src/net/firewall/iptables-chains.ts";
import { exitChains, exitTrial } from "../../../../src/net/firewall/iptables-exit-chains.ts";
import { iptablesExitFirewall } from "../../../../src/net/firewall/iptables-exit.ts";
import type { PulseOutcome, PulseTarget } from "../../../../src/net/firewall/lease-pulse.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { memoryJournal } from "../memory-journal.ts";
import { cidr, CLOSED_POLICY, EXIT_POLICY, ip, OUTLET_POLICY } from "./exit-policy.ts";
import { FakeIptables } from "./fake-iptables.ts";

const { signal } = new AbortController();
const identifiers = IDENTIFIERS.node;
const COMMANDS: readonly Iptables[] = [
  { family: 4, save: "iptables-save", restore: "iptables-restore" },
  { family: 6, save: "ip6tables-save", restore: "ip6tables-restore" },
];
const golden = (name: string): string => readFileSync(join(import.meta.dir, "golden", name), "utf8");
const textOf = (policy: ExitPolicy, family: Family): string =>
  replacementOf(exitChains(family, { policy, identifiers }), new Map(), identifiers.chainPrefix);

function exit() {
  const exec = new FakeIptables();
  const journal = memoryJournal();
  /** Of the families whose lease lives. */
  const leases = new Set<Family>();
  const pulse = async ({ family, port, mark }: PulseTarget): Promise<PulseOutcome> => {
    const mangle = exec.families[family === 4 ? "iptables" : "ip6tables"].get("mangle");
    const leads = mangle?.get("OUTPUT")?.some((rule) => rule.endsWith("-j higgs-node-lease")) ?? false;
    // As the kernel: a rule that removes matches only where there is something to remove.
    const rule = mangle
      ?.get("higgs-node-lease")
      ?.filter((one) => one.includes(`--dport ${port} `) && one.includes(`--mark 0x${mark.toString(16)}/`))
      .find((one) => !one.includes("--remove ") || leases.has(family));
    if (!leads || rule === undefined) return "passed";
    if (rule.includes("--set ")) leases.add(family);
    else leases.delete(family);
    return "taken";
  };
  const deps = { exec, journal, identifiers, log: silentLogger, commands: COMMANDS, pulse };
  return { exec, journal, leases, firewall: iptablesExitFirewall(deps), again: () => iptablesExitFirewall(deps) };
}

describe("exitChains()", () => {
  for (const family of [4, 6] as const) {
    test(`say of IPv${family} what the nft table says: the usual exit, a closed one, and all that an owner can decide`, () => {
      expect(textOf(EXIT_POLICY, family)).toBe(golden(`exit.iptables${family}`));
      expect(textOf(CLOSED_POLICY, family)).toBe(golden(`exit-closed.iptables${family}`));
      expect(textOf(OUTLET_POLICY, family)).toBe(golden(`exit-outlet.iptables${family}`));
    });
  }

  test("have names that iptables takes, and targets that are there", () => {
    for (const family of [4, 6] as const) {
      for (const chains of [
        exitChains(family, { policy: OUTLET_POLICY, identifiers }),
        exitTrial(identifiers)(family),
      ]) {
        const names = chains.map(({ name }) => name);
        expect(names.filter((name) => name.length > 28)).toEqual([]);
        const targets = chains.flatMap(({ rules }) => rules.map(({ target }) => target.split(" ")[0] ?? ""));
        expect(targets.filter((target) => /^[a-z]/.test(target) && !names.includes(target))).toEqual([]);
      }
    }
  });

  test("refuse a name that is no interface's, or stands for many", () => {
    for (const name of ["", "eth0\n", "sixteen-letters-", "a b", "eth+"]) {
      for (const wrong of [{ interface: name }, { uplinks: [name] }, { fence4: [name] }]) {
        expect(() => textOf({ ...EXIT_POLICY, ...wrong }, 4)).toThrow("no interface name");
      }
    }
  });
});

describe("exitTrial()", () => {
  test("asks for every match and target of a policy, and touches neither the chains nor the lease of a running exit", async () => {
    const words = (text: string): Set<string> => new Set(text.match(/-m \S+|-j [A-Z]+|--[a-z-]+/g) ?? []);
    for (const family of [4, 6] as const) {
      const trial = replacementOf(exitTrial(identifiers)(family), new Map(), "");
      const all = words(textOf(OUTLET_POLICY, family) + textOf(EXIT_POLICY, family));
      expect([...all].filter((word) => !words(trial).has(word))).toEqual([]);
    }
    const { exec, firewall } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    const before = (await exec.run(["iptables-save"])).stdout;
    expect(await findIptables(exec, { ipv6: true, trial: exitTrial(identifiers) }, signal)).toEqual(COMMANDS);
    expect((await exec.run(["iptables-save"])).stdout).toBe(before);
    expect(exec.loaded.slice(-4).join("")).not.toMatch(/--name higgs-node-lease/);
  });

  test("names the part that a kernel lacks for the lease", async () => {
    const exec = new FakeIptables();
    exec.unknown.add("-m recent");
    const found = await findIptables(exec, { ipv6: true, trial: exitTrial(identifiers) }, signal);
    expect(found instanceof HiggsError ? found.message : "found").toContain("Couldn't load match");
  });
});

describe("iptablesExitFirewall()", () => {
  test("loads both families, and opens the lease when all of it is there", async () => {
    const { exec, firewall, journal, leases } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    expect(exec.loaded).toEqual([
      `iptables-restore\n${golden("exit.iptables4")}`,
      `ip6tables-restore\n${golden("exit.iptables6")}`,
    ]);
    expect([...leases]).toEqual([4, 6]);
    expect(journal.printed()).toBe("iptables-chains");
    expect(await firewall.verify(signal)).toEqual([]);
  });

  test("opens nothing that was closed unless it is asked to, and writes nothing when all is as wanted", async () => {
    const { exec, firewall, again, leases } = exit();
    await firewall.apply({ ...EXIT_POLICY, open: false }, signal);
    expect(leases.size).toBe(0);
    await firewall.renewLease(signal);
    expect(leases.size).toBe(2);
    await again().apply(EXIT_POLICY, signal); // the node was started again
    expect(exec.loaded).toHaveLength(2);
    await firewall.closeLease(signal);
    await firewall.closeLease(signal); // as at every pass while something is missing
    expect(leases.size).toBe(0);
  });

  test("changes clients in the families that they are of", async () => {
    const { exec, firewall } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    await firewall.setClients({ clients4: [ip("10.83.0.3"), ip("10.83.0.4")], clients6: EXIT_POLICY.clients6 }, signal);
    expect(exec.loaded).toHaveLength(3);
    expect(exec.loaded[2]).toContain("-A higgs-node-clients -s 10.83.0.4 ");
    expect(exec.loaded[2]).not.toContain("-A higgs-node-clients -s 10.83.0.2 ");
    await firewall.setClients({ clients4: [], clients6: [] }, signal);
    expect(exec.loaded).toHaveLength(5);
    expect(await firewall.verify(signal)).toEqual([]);
  });

  test("says what somebody else did to the chains, and mends it", async () => {
    const { exec, firewall } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    exec.families.iptables.get("filter")?.get("higgs-node-forward")?.splice(1, 1);
    exec.families.ip6tables.get("filter")?.get("FORWARD")?.splice(0);
    expect(await firewall.verify(signal)).toEqual([
      'IPv4: The chain "higgs-node-forward" of "filter" is not as wanted.',
      'IPv6: "FORWARD" of "filter" does not begin with "higgs-node-forward".',
    ]);
    await firewall.apply(EXIT_POLICY, signal);
    expect(await firewall.verify(signal)).toEqual([]);
  });

  test("says that the chains are not there instead of opening half an exit", async () => {
    const { exec, firewall } = exit();
    const refused = async (work: Promise<void>) =>
      expect(await work.catch((thrown: unknown) => thrown)).toBeInstanceOf(FirewallNotLoaded);
    await refused(firewall.renewLease(signal));
    await refused(firewall.setClients({ clients4: [], clients6: [] }, signal));
    await firewall.apply(EXIT_POLICY, signal);
    exec.families.ip6tables.clear();
    await refused(firewall.renewLease(signal));
    await refused(firewall.closeLease(signal));
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
    const { exec, firewall, journal } = exit();
    await firewall.apply(EXIT_POLICY, signal);
    await firewall.reset(signal);
    await firewall.reset(signal);
    for (const save of ["iptables-save", "ip6tables-save"] as const) {
      expect((await exec.run([save])).stdout).not.toContain("higgs");
    }
    expect(journal.printed()).toBe("");
  });
});
