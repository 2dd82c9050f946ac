// The mechanisms of an exit's firewall in the lab: how a host comes to have one alone, what is loaded there, and how it is taken away.
import { silentLogger } from "../../src/base/log.ts";
import { HiggsError } from "../../src/base/errors.ts";
import type { LabHost } from "../../src/lab/host.ts";
import type { ExitFirewall } from "../../src/net/firewall/exit.ts";
import { foreignDrops } from "../../src/net/firewall/foreign.ts";
import { findIptables, type Iptables, removeChains } from "../../src/net/firewall/iptables.ts";
import { exitTrial } from "../../src/net/firewall/iptables-exit-chains.ts";
import { iptablesExitFirewall } from "../../src/net/firewall/iptables-exit.ts";
import { iptablesForeignDrops } from "../../src/net/firewall/iptables-foreign.ts";
import { nftExitFirewall } from "../../src/net/firewall/nft-exit.ts";
import { removeTable } from "../../src/net/firewall/nft.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import type { Journal } from "../../src/net/journal.ts";
import { leaveOnly, type Mechanism, mechanismAsked } from "./mechanisms.ts";
import { execOn, pulseOn } from "./net-hosts.ts";

const { signal } = new AbortController();
const identifiers = IDENTIFIERS.node;

export interface ExitMechanism {
  readonly name: Mechanism;
  /** Before the node starts: leaves the host no other. */
  prepare(host: LabHost): Promise<void>;
  firewall(host: LabHost, journal: Journal): Promise<ExitFirewall>;
  foreignDrops(host: LabHost): Promise<readonly string[]>;
  /** Of `tool`, which is iptables' name here, and its chain FORWARD. */
  readonly forwardDrop: { readonly tool: string; readonly said: string };
  /** By the fixed names alone. True when there was something. */
  remove(host: LabHost): Promise<boolean>;
  /** Seconds that the exit stays open without its process; -1 when it is closed. `leaseS`: as the rules have it, where they say. */
  leaseLeftS(host: LabHost, leaseS?: number): Promise<number>;
  /** Parts of a snapshot that show nothing of ours, and are not steady. */
  readonly unsteady: readonly string[];
  /** Everything of ours, without what changes by itself. */
  rules(host: LabHost): Promise<string>;
  /** How somebody takes it away, or a part of it. */
  readonly deeds: readonly string[];
  /** Without our rules, and with what makes packets of `range4` and of IPv6 leave as the host's. */
  giveAway(host: LabHost, range4: string): Promise<void>;
  takeBack(host: LabHost): Promise<void>;
}

/** Those that a test file runs with: the one that was asked for, or what is named here for every run. */
export function exitMechanisms(...usual: readonly Mechanism[]): readonly ExitMechanism[] {
  const chosen = process.env["HIGGS_LAB_FIREWALL"] === undefined ? usual : [mechanismAsked()];
  return chosen.map((name) => (name === "nft" ? NFT : byIptables(name)));
}

const NAIVE = `table inet naive {
  chain post {
    type nat hook postrouting priority 100
    iifname "higgsn0" oifname "eth0" masquerade
  }
}`;

const NFT: ExitMechanism = {
  name: "nft",
  prepare: () => Promise.resolve(),
  firewall: (host, journal) =>
    Promise.resolve(nftExitFirewall({ exec: execOn(host), journal, identifiers, log: silentLogger })),
  foreignDrops: (host) => foreignDrops(execOn(host), identifiers, signal),
  forwardDrop: {
    tool: "iptables",
    said: 'The chain "FORWARD" of the nft table "ip filter" drops what this machine forwards.',
  },
  remove: (host) => removeTable(execOn(host), identifiers, signal),
  async leaseLeftS(host) {
    const { stdout } = await host.exec(["nft", "-j", "list", "set", "inet", identifiers.table, "lease"]);
    return Number(/"expires": ?(\d+)/.exec(stdout)?.[1] ?? -1);
  },
  unsteady: [],
  async rules(host) {
    const { stdout } = await host.exec(["nft", "-a", "list", "table", "inet", identifiers.table]);
    return stdout.replaceAll(/expires \S+|# handle \d+$/gm, "");
  },
  deeds: [
    "nft flush ruleset",
    `nft delete table inet ${identifiers.table}`,
    `nft flush chain inet ${identifiers.table} forward`,
  ],
  async giveAway(host) {
    await removeTable(execOn(host), identifiers, signal);
    await host.execOrThrow(["nft", "-f", "-"], { stdin: NAIVE });
  },
  async takeBack(host) {
    await host.execOrThrow(["nft", "delete", "table", "inet", "naive"]);
  },
};

const HOOKS = ["FORWARD", "INPUT", "OUTPUT -t mangle", "PREROUTING -t nat", "POSTROUTING -t nat"] as const;

function byIptables(name: "iptables-legacy" | "iptables-nft"): ExitMechanism {
  const sh = (host: LabHost, script: string) => host.execOrThrow(["sh", "-ec", script]);
  const six = `ip6${name.slice("ip".length)}`;
  const both = (rest: string): string => `${name}${rest}; ${six}${rest}`;
  const flushAll = ["filter", "mangle", "nat"].map((table) => both(` -t ${table} -F`) + "; " + both(` -t ${table} -X`));
  const commands = async (host: LabHost): Promise<readonly Iptables[]> => {
    const found = await findIptables(execOn(host), { ipv6: true, trial: exitTrial(identifiers) }, signal);
    if (found instanceof HiggsError) throw found;
    return found;
  };
  const list = `/proc/net/xt_recent/${identifiers.chainPrefix}lease4`;
  return {
    name,
    prepare: async (host) => {
      await leaveOnly(host, name);
      // What the first use leaves on a machine for good, and is not the node's: empty tables, and the file that is locked.
      for (const chain of HOOKS) await sh(host, `${both(` -A ${chain} -j RETURN`)}; ${both(` -D ${chain} -j RETURN`)}`);
    },
    async firewall(host, journal) {
      const deps = { exec: execOn(host), journal, identifiers, log: silentLogger, pulse: pulseOn(host) };
      return iptablesExitFirewall({ ...deps, commands: await commands(host) });
    },
    foreignDrops: async (host) =>
      iptablesForeignDrops(execOn(host), { commands: await commands(host), tunnel: identifiers.interface }, signal),
    forwardDrop: {
      tool: name,
      said: `The chain "FORWARD" of "${name === "iptables-nft" ? "iptables" : name}" drops what this machine forwards.`,
    },
    remove: (host) => removeChains(execOn(host), identifiers.chainPrefix, signal),
    async leaseLeftS(host, leaseS = 30) {
      const { stdout } = await host.exec(["cat", list]);
      const lastSeen = /last_seen: (\d+)/.exec(stdout)?.[1];
      if (lastSeen === undefined) return -1;
      const leftS = leaseS - ((await readJiffies()).count - Number(lastSeen)) / (await jiffiesASecond());
      return leftS <= 0 ? -1 : leftS;
    },
    // The chains of the kernel in nf_tables, which stay, are listed now in one order and now in another.
    unsteady: name === "iptables-nft" ? ["ruleset"] : [],
    async rules(host) {
      const saved = await sh(host, both("-save"));
      return saved
        .split("\n")
        .filter((line) => line.includes("higgs"))
        .join("\n");
    },
    deeds: [both(" -F FORWARD"), both(` -F ${identifiers.chainPrefix}forward`), flushAll.join("; ")],
    async giveAway(host, range4) {
      await sh(host, flushAll.join("; "));
      await sh(host, `${name} -t nat -A POSTROUTING -s ${range4} -o eth0 -j MASQUERADE`);
      await sh(host, `${six} -t nat -A POSTROUTING -s fd00::/8 -o eth0 -j MASQUERADE`);
    },
    takeBack: async (host) => {
      await sh(host, both(" -t nat -F POSTROUTING"));
    },
  };
}

/** The kernel's own clock, by which xt_recent tells an entry's age; and the monotonic one of the same moment. */
async function readJiffies(): Promise<{ readonly count: number; readonly ns: number }> {
  const text = await Bun.file("/proc/timer_list").text();
  return { count: Number(/^jiffies: (\d+)/m.exec(text)?.[1]), ns: Number(/^now at (\d+) nsecs/m.exec(text)?.[1]) };
}

let rate: Promise<number> | undefined;

function jiffiesASecond(): Promise<number> {
  rate ??= (async () => {
    const first = await readJiffies();
    await Bun.sleep(400);
    const then = await readJiffies();
    const seen = ((then.count - first.count) * 1e9) / (then.ns - first.ns);
    // What a kernel can be built with.
    return [100, 250, 300, 1000].reduce((best, hz) => (Math.abs(hz - seen) < Math.abs(best - seen) ? hz : best));
  })();
  return rate;
}
