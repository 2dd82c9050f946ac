// Everything that differs on a machine while higgs runs, by the system's own listings before and after, is named by `higgs state list`.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { HIGGS, higgsOrThrow, invitesOf, startClientLab, startNode, startServer, untilBrowses } from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
/** Counters, and what the kernel draws or tells of the moment. */
const VOLATILE = /nf_conntrack_(count|buckets|max)|\.stable_secret|\.neigh\.|netdev_rss_key|ip_local_reserved/;

const FORWARDING6 = "sysctl net.ipv6.conf.all.forwarding = 1";

interface Look {
  readonly tables: ReadonlyMap<string, string>;
  /** Lines of each, with their family. */
  readonly rules: readonly string[];
  readonly routes: readonly string[];
  readonly settings: ReadonlyMap<string, string>;
  readonly links: readonly string[];
  readonly iptables: string;
  readonly resolvConf: string;
}

async function look(host: LabHost): Promise<Look> {
  const lines = async (...argv: readonly string[]): Promise<readonly string[]> =>
    (await host.exec(argv)).stdout.split("\n").filter((line) => line.trim() !== "");
  const both = async (...argv: readonly string[]): Promise<readonly string[]> =>
    (await Promise.all(["-4", "-6"].map(async (f) => (await lines("ip", f, ...argv)).map((l) => `${f} ${l}`)))).flat();
  const ruleset = (await host.execOrThrow(["nft", "-s", "list", "ruleset"])).split(/^(?=table )/m);
  const settings = await lines("sh", "-c", "sysctl -a 2>/dev/null | grep '^net\\.'");
  return {
    tables: new Map(ruleset.filter(Boolean).map((text) => [text.slice(0, text.indexOf(" {")), text])),
    rules: await both("rule"),
    routes: await both("route", "show", "table", "all"),
    settings: new Map(
      settings.flatMap((line) => {
        const [key = "", value = ""] = line.split(" = ");
        return VOLATILE.test(key) ? [] : [[key, value] as const];
      }),
    ),
    links: (await lines("ip", "-o", "link")).map((line) => /^\d+: ([^:@]+)/.exec(line)?.[1] ?? line),
    iptables: (await host.exec(["sh", "-c", "iptables-save; ip6tables-save"])).stdout.replaceAll(/^#.*\n/gm, ""),
    resolvConf: await host.readFile("/etc/resolv.conf"),
  };
}

/** What higgs says, one string each: `nft table inet higgs_node`. */
async function listed(host: LabHost, role: "node" | "client"): Promise<readonly string[]> {
  const said = JSON.parse(await higgsOrThrow(host, "state", "list", "--role", role, "--json")) as {
    roles: { changes: { kind: string; what: string; isJournaled: boolean }[] }[];
  };
  const changes = (said.roles[0]?.changes ?? []).filter(({ kind }) => kind !== "file");
  expect(changes.filter(({ isJournaled }) => !isJournaled)).toEqual([]);
  return changes.map(({ what }) => what);
}

/** Sentences of what differs and is not in the list, and of what is in the list and does not differ. */
function unlisted(before: Look, after: Look, list: readonly string[], device: string): readonly string[] {
  const found: string[] = [];
  const left = new Set(list);
  const need = (what: string): void => {
    if (!left.delete(what) && !list.includes(what)) found.push(`not listed: ${what}`);
  };
  for (const [name, text] of after.tables) {
    if (!before.tables.has(name)) need(`nft ${name}`);
    else if (before.tables.get(name) !== text) found.push(`changed: ${name}`);
  }
  for (const name of before.tables.keys()) if (!after.tables.has(name)) found.push(`gone: ${name}`);
  for (const name of added(before.links, after.links)) need(`interface ${name}`);
  for (const line of added(before.rules, after.rules)) {
    const pref = /^(-[46]) (\d+):/.exec(line);
    const own = [...left].find((what) => what.startsWith(`ip ${pref?.[1]} rule pref ${pref?.[2]} `));
    if (own === undefined) found.push(`not listed: ip rule ${line}`);
    else left.delete(own);
  }
  for (const line of added(before.routes, after.routes)) {
    // What the kernel makes and takes away with the device is the device's.
    if (line.includes(` dev ${device} `) && !line.includes(" table 5270")) continue;
    // As it makes them on every interface of a router (RFC 4291, 2.6.1).
    if (line.startsWith("-6 anycast ") && list.includes(FORWARDING6)) continue;
    const own = [...left].find((what) => what.startsWith("ip ") && sameRoute(line, what));
    if (own === undefined) found.push(`not listed: ip route ${line}`);
    else left.delete(own);
  }
  for (const [kind, a, b] of [
    ["rule", before.rules, after.rules],
    ["route", before.routes, after.routes],
    ["link", before.links, after.links],
  ] as const) {
    for (const line of added(b, a)) found.push(`gone: ${kind} ${line}`);
  }
  for (const [key, value] of after.settings) {
    if (before.settings.get(key) === value || key.includes(`.${device}.`)) continue;
    // They come with a part of the kernel, which another lab may load meanwhile.
    if (!before.settings.has(key) && /^net\.(netfilter|bridge)\./.test(key)) continue;
    if (!isForwardingOfAll(key, list)) need(`sysctl ${key} = ${value}`);
  }
  if (before.iptables !== after.iptables) found.push("changed: iptables-save");
  if (before.resolvConf !== after.resolvConf) need("/etc/resolv.conf");
  return [...found, ...[...left].map((what) => `listed, and not seen: ${what}`)];
}

function added(before: readonly string[], after: readonly string[]): readonly string[] {
  const rest = [...before];
  return after.filter((line) => {
    const at = rest.indexOf(line);
    if (at >= 0) rest.splice(at, 1);
    return at < 0;
  });
}

/** `ip` shows more of a route than makes it: the words of the list, in their order. */
function sameRoute(line: string, what: string): boolean {
  const [, family = "", , ...words] = what.split(" ");
  const shown = line.split(" ");
  if (shown[0] !== family) return false;
  let at = 0;
  return words.every((word) => {
    const next = shown.indexOf(word, at);
    // The table comes before the metric in one of them.
    if (next < 0) return shown.includes(word);
    at = next;
    return true;
  });
}

/** The kernel's one switch for forwarding sets those of all interfaces (ip-sysctl). */
function isForwardingOfAll(key: string, list: readonly string[]): boolean {
  const family = /^net\.(ipv[46])\.conf\.[^.]+\.(mc_)?forwarding$/.exec(key)?.[1];
  if (family === undefined) return false;
  const own = family === "ipv4" ? "sysctl net.ipv4.ip_forward = 1" : FORWARDING6;
  return list.includes(own) && key !== own.split(" ")[1];
}

let lab: Lab;
const seen = new Map<string, Look>();

beforeAll(async () => {
  lab = await startClientLab();
  const server = await startServer(lab);
  const invites = await invitesOf(server);
  const [home, laptop] = [lab.host("home-pc"), lab.host("laptop")];
  // What others have, so that a change of theirs would show.
  for (const host of [home, laptop]) {
    await host.execOrThrow([
      "sh",
      "-ec",
      "iptables -N theirs; ip rule add pref 4000 fwmark 0x77 lookup 77; nft add table inet other",
    ]);
    seen.set(host.name, await look(host));
  }
  await startNode(lab, "--join", invites.node, "--exit-log", "7d");
  await laptop.execOrThrow([HIGGS, "client", "join", invites.client]);
  await higgsOrThrow(laptop, "client", "up", "--lockdown", "--lan");
  await higgsOrThrow(laptop, "client", "lockdown", "on", "--paranoid");
  await untilBrowses(laptop);
}, MINUTE);
afterAll(() => lab[Symbol.asyncDispose]());

for (const [name, role, device] of [
  ["laptop", "client", "higgs0"],
  ["home-pc", "node", "higgsn0"],
] as const) {
  test(
    `state list of a ${role} has every difference of nft, ip rule, ip route, sysctl and iptables-save, and no other`,
    async () => {
      const host = lab.host(name);
      const before = seen.get(name) as Look;
      // Between two looks a path may move.
      const expectUnlisted = async (wanted: readonly string[]): Promise<void> => {
        let found: readonly string[] = [];
        const isSo = async (): Promise<boolean> => {
          found = unlisted(before, await look(host), await listed(host, role), device);
          return Bun.deepEquals(found, wanted);
        };
        await until(isSo, { everyMs: 500 }).catch(() => undefined); // told below
        expect(found).toEqual([...wanted]);
      };
      await expectUnlisted([]);
      // Positive control: what somebody else adds is seen, and is not in the list.
      await host.execOrThrow([
        "sh",
        "-ec",
        "ip rule add pref 4001 lookup 77; nft add table inet strange; sysctl -qw net.ipv4.conf.all.log_martians=1",
      ]);
      await expectUnlisted([
        "not listed: nft table inet strange",
        "not listed: ip rule -4 4001:\tfrom all lookup 77",
        "not listed: sysctl net.ipv4.conf.all.log_martians = 1",
      ]);
      await host.execOrThrow([
        "sh",
        "-ec",
        "ip rule del pref 4001; nft delete table inet strange; sysctl -qw net.ipv4.conf.all.log_martians=0",
      ]);
    },
    MINUTE,
  );
}

test(
  "and after the node is down everything is as it was, a setting included that the kernel changes with forwarding",
  async () => {
    const home = lab.host("home-pc");
    const differing = async () => unlisted(seen.get("home-pc") as Look, await look(home), [], "higgsn0");
    const down = async (): Promise<void> => {
      await higgsOrThrow(home, "node", "down");
      await until(async () => !(await home.exec(["pgrep", "-f", "higgs node"])).stdout, { what: "the node's end" });
    };
    await down();
    expect(await differing()).toEqual([]);
    // Hardened machines take no redirects, which the kernel forgets when forwarding is switched off.
    await home.execOrThrow(["sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0"]);
    await startNode(lab);
    await down();
    expect(await home.execOrThrow(["sysctl", "-n", "net.ipv4.conf.all.accept_redirects"])).toBe("0\n");
  },
  MINUTE,
);
