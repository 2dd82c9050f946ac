// Wanted against real: whatever somebody else takes away or changes at node and client is back within a second, and `state` says what there is.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { HIGGS, higgs, killNow, pidOf, startClientLab, startNetwork, startNode, untilBrowses } from "./client-lab.ts";
import { untilSettled } from "./cables.ts";
import { daemonsHaveUser } from "./daemon-user.ts";
import { snapshot, until } from "./harness.ts";

const MINUTE = 60_000;
/** Generous on a busy machine; the figure that was seen is printed. */
const MENDED_MS = 10_000;
/** Counters, leases and what only the moment decides. */
const MOVING = { without: ["etc and run", "processes"] };

interface Deed {
  readonly name: string;
  readonly commands: readonly string[];
}

const COMMON: readonly Deed[] = [
  { name: "every nft table flushed", commands: ["nft flush ruleset"] },
  { name: "the tunnel's IPv4 address deleted", commands: ["ip -4 addr flush dev DEV"] },
  { name: "the tunnel's IPv6 address deleted", commands: ["ip -6 addr flush dev DEV"] },
  { name: "the tunnel's size changed", commands: ["ip link set dev DEV mtu 1300"] },
  // Nothing tells of these.
  { name: "the tunnel's mark taken away", commands: ["wg set DEV fwmark 0"] },
  { name: "its port changed", commands: ["wg set DEV listen-port 40404"] },
  { name: "its peer removed", commands: ["wg set DEV peer $(wg show DEV peers) remove"] },
  { name: "its peer's prefixes changed", commands: ["wg set DEV peer $(wg show DEV peers) allowed-ips 192.0.2.1/32"] },
];
const NODE: readonly Deed[] = [
  { name: "its table deleted", commands: ["nft delete table inet higgs_node"] },
  { name: "the shared port's table deleted", commands: ["nft delete table inet higgs_node_demux"] },
  { name: "forwarding switched off", commands: ["sysctl -qw net.ipv4.ip_forward=0"] },
  { name: "the network's routes deleted", commands: ["ip route flush dev DEV scope link table main"] },
];
const CLIENT: readonly Deed[] = [
  {
    name: "the routing rules flushed",
    commands: ["ip -4 rule flush", "ip -4 rule add pref 32766 lookup main", "ip -4 rule add pref 32767 lookup default"],
  },
  {
    name: "the routing rules of IPv6 flushed",
    commands: ["ip -6 rule flush", "ip -6 rule add pref 32766 lookup main"],
  },
  { name: "the tunnel's table of routes flushed", commands: ["ip -4 route flush table 5270"] },
  { name: "that of IPv6 flushed", commands: ["ip -6 route flush table 5270"] },
  { name: "one rule deleted", commands: ["ip -4 rule del pref 5270"] },
  { name: "the kernel's settings put back", commands: ["sysctl -qw net.ipv4.conf.all.arp_ignore=0"] },
  { name: "and the other", commands: ["sysctl -qw net.ipv4.conf.all.src_valid_mark=0"] },
];

/** The machine's state without leases of the moment, and its tables in an order of their own: one that was made anew comes last. */
async function picture(host: LabHost): Promise<string> {
  const shown = await snapshot(host, MOVING);
  const tablesEnd = shown.indexOf("\n== ", shown.indexOf("== ruleset") + 1);
  const tables = shown.slice(0, tablesEnd).split(/^(?=table )/m);
  const text = `${tables
    .map((one) => one.trim())
    .toSorted()
    .join("\n")}${shown.slice(tablesEnd)}`;
  const wg = (
    await host.exec(["sh", "-c", "wg show all fwmark; wg show all listen-port; wg show all allowed-ips | sort"])
  ).stdout;
  return `${text}\n${wg}`.replaceAll(/timeout \d+s( expires \S+)?|set seen[\s\S]*?\}/g, "");
}

interface Sleeper {
  readonly machine: LabHost;
  readonly wanted: string;
  readonly signal: (name: "STOP" | "CONT") => Promise<void>;
}

/** Positive control: while nobody is awake to mend it, the deed is seen; awake again, the role mends it. */
async function shows({ machine, wanted, signal }: Sleeper, command: string): Promise<void> {
  await signal("STOP");
  try {
    await machine.execOrThrow(["sh", "-c", command]);
    expect(await picture(machine)).not.toBe(wanted);
  } finally {
    await signal("CONT");
  }
  await untilLike(machine, { wanted, what: command });
}

async function untilLike(machine: LabHost, like: { readonly wanted: string; readonly what: string }): Promise<number> {
  const at = performance.now();
  let now = await picture(machine);
  while (now !== like.wanted && performance.now() - at < MENDED_MS) now = await picture(machine);
  expect(`${like.what}\n${now}`).toBe(`${like.what}\n${like.wanted}`);
  return performance.now() - at;
}

describe("reconciling", () => {
  let lab: Lab;
  let node: LabProcess;
  const host = (name: string) => lab.host(name);
  /** The node runs in the foreground, below a program that would sleep for ever if its child alone were stopped. */
  const signal = async (role: "node" | "client", name: "STOP" | "CONT"): Promise<void> => {
    if (role === "node") node.kill(`SIG${name}`);
    else await host("laptop").execOrThrow(["kill", `-${name}`, String(await pidOf(host("laptop"), "client"))]);
  };

  beforeAll(async () => {
    lab = await startClientLab();
    ({ node } = await startNetwork(lab));
    await higgs(host("laptop"), "client", "up");
    await untilBrowses(host("laptop"));
    await untilSettled(host("laptop"), "direct"); // a path that is being moved has rules of the moment
  }, 2 * MINUTE);
  afterAll(async () => {
    await lab?.[Symbol.asyncDispose]();
  });

  for (const [role, name, dev, deeds] of [
    ["node", "home-pc", "higgsn0", [...COMMON, ...NODE]],
    ["client", "laptop", "higgs0", [...COMMON, ...CLIENT]],
  ] as const) {
    test(
      `puts back what somebody took away from the ${role}`,
      async () => {
        const machine = host(name);
        const wanted = await until(
          async () => {
            const first = await picture(machine);
            await Bun.sleep(1_000);
            return (await picture(machine)) === first ? first : null;
          },
          { timeoutMs: 30_000, what: "a machine at rest" },
        );
        for (const { name: deed, commands } of deeds) {
          const command = commands.join(" && ").replaceAll("DEV", dev);
          await shows({ machine, wanted, signal: (name) => signal(role, name) }, command);
          await machine.execOrThrow(["sh", "-c", command]);
          const ms = await untilLike(machine, { wanted, what: deed });
          console.log(`${role}: ${deed}: as before after ${Math.round(ms)} ms at most`);
        }
        const verified = await higgs(machine, "state", "verify", "--role", role);
        expect([verified.code, verified.stdout]).toEqual([
          0,
          `${role}: is running, and everything is as it wants it.\n`,
        ]);
        await untilBrowses(host("laptop"));
      },
      4 * MINUTE,
    );
  }

  test("leaves name servers to the person who wrote them meanwhile, says so, and says where nobody answers", async () => {
    const laptop = host("laptop");
    const theirs = "# the café's own\nnameserver 192.168.7.1\n";
    const file = (): Promise<string> => laptop.readFile("/etc/resolv.conf");
    const verify = async (): Promise<string> => (await higgs(laptop, "state", "verify", "--role", "client")).stdout;
    const health = async (): Promise<string> => (await higgs(laptop, "client", "status", "--json")).stdout;
    const foreign = "Names are asked of 192.168.7.1: somebody else wrote /etc/resolv.conf, and it stays theirs.";
    for (const flags of [[], ["--lan"]]) {
      await higgs(laptop, "client", "down");
      await higgs(laptop, "client", "up", ...flags);
      expect(await file()).toContain("Written by higgs");
      await laptop.writeFile("/etc/resolv.conf", theirs);
      // Two things for which it looks at everything: a change of the tunnel's size is mended last.
      await laptop.execOrThrow(["ip", "link", "set", "dev", "higgs0", "mtu", "1300"]);
      const mended = async (): Promise<boolean> =>
        (await laptop.execOrThrow(["ip", "link", "show", "dev", "higgs0"])).includes("mtu 1420");
      await until(mended, { timeoutMs: MENDED_MS, what: "the tunnel's size" });
      // The look that mended it may have begun before they wrote.
      await until(async () => (await verify()).includes(foreign), { what: "somebody else's name servers, seen" });
      expect(await file()).toBe(theirs);
      const isOpen = flags.length === 0;
      await until(async () => (await health()).includes("names-closed") === !isOpen, { what: "that as health" });
      // In the tunnel the exit answers, whoever is asked.
      if (isOpen) await untilBrowses(laptop);
    }
    await higgs(laptop, "client", "down");
    expect(await file()).toBe(theirs);
    await higgs(laptop, "client", "up");
    expect(await file()).toContain("Written by higgs");
    await untilBrowses(laptop);
  });

  // After a kill -9 the next process has nothing but the journal and the copy to tell them by.
  test("leaves them also when it was killed, and takes up again what it had not set yet", async () => {
    const laptop = host("laptop");
    const file = (): Promise<string> => laptop.readFile("/etc/resolv.conf");
    await higgs(laptop, "client", "down");
    const before = await file();
    await higgs(laptop, "client", "up");
    await killNow(laptop, await pidOf(laptop, "client"));
    await laptop.writeFile("/etc/resolv.conf", before); // as one that was killed just before its last step
    await higgs(laptop, "client", "up");
    expect(await file()).toContain("Written by higgs");
    await killNow(laptop, await pidOf(laptop, "client"));
    await laptop.writeFile("/etc/resolv.conf", "nameserver 203.0.113.53\n");
    await higgs(laptop, "client", "up");
    expect(await file()).toBe("nameserver 203.0.113.53\n");
    await untilBrowses(laptop);
    await higgs(laptop, "client", "down");
    await laptop.writeFile("/etc/resolv.conf", before);
    await higgs(laptop, "client", "up", "--no-lan");
    await untilBrowses(laptop);
  });

  test("state list names everything by what the system says, and verify what differs, also without a journal", async () => {
    const laptop = host("laptop");
    const running = await higgs(laptop, "state", "list", "--role", "client");
    for (const part of [
      "client: is running",
      "interface higgs0",
      "nft table inet higgs_client",
      "nft table inet higgs_client_demux",
      "ip -4 rule pref 5270 lookup 5270",
      "ip -6 route default dev higgs0 table 5270",
      "sysctl net.ipv4.conf.all.src_valid_mark = 1",
      "/etc/resolv.conf",
      "/var/lib/higgs/client/identity.key",
    ]) {
      expect(running.stdout).toContain(part);
    }
    expect(running.stdout).not.toContain("not in the journal");
    await killNow(laptop, await pidOf(laptop, "client"));
    await laptop.writeFile("/var/lib/higgs/client/journal.json", "{ garbage");
    const left = await higgs(laptop, "state", "verify", "--role", "client");
    expect(left.code).toBe(1);
    expect(left.stdout).toContain("does not run, and left:");
    for (const part of [
      "interface higgs0",
      "nft table inet higgs_client",
      "pref 5270",
      "sudo higgs state clean --role client",
    ]) {
      expect(left.stdout).toContain(part);
    }
    const listed = JSON.parse((await higgs(laptop, "state", "list", "--role", "client", "--json")).stdout) as {
      roles: { running: boolean; changes: { kind: string; isJournaled: boolean }[] }[];
    };
    expect(listed.roles[0]?.running).toBe(false);
    // A service's resolv.conf is in the journal of the helper, which has lost nothing.
    const isOwn = ({ kind }: { kind: string }): boolean => !(daemonsHaveUser() && kind === "dns");
    expect(listed.roles[0]?.changes.some((change) => isOwn(change) && change.isJournaled)).toBe(false);
    await laptop.execOrThrow([HIGGS, "state", "clean", "--role", "client"]);
    const clean = await higgs(laptop, "state", "verify");
    expect([clean.code, clean.stdout]).toEqual([
      0,
      ["server", "node", "client"].map((role) => `${role}: does not run, and left nothing.\n`).join(""),
    ]);
    expect((await laptop.exec(["nft", "list", "ruleset"])).stdout).toBe("");
    expect((await laptop.exec(["ip", "rule"])).stdout).not.toContain("5270");
    // Only the journal knew what the kernel's settings were.
    expect(await laptop.execOrThrow(["sysctl", "-n", "net.ipv4.conf.all.src_valid_mark"])).toBe("1\n");
  });

  test("a node that was killed and lost its journal is found and cleared by its names", async () => {
    const pc = host("home-pc");
    node.kill("SIGKILL");
    await node.exited;
    await pc.execOrThrow(["rm", "-f", "/var/lib/higgs/node/journal.json"]);
    const left = await higgs(pc, "state", "verify", "--role", "node");
    expect([left.code, left.stdout]).toEqual([1, expect.stringContaining("interface higgsn0") as unknown as string]);
    expect(left.stdout).toContain("nft table inet higgs_node");
    await pc.execOrThrow([HIGGS, "state", "clean", "--role", "node"]);
    expect((await higgs(pc, "state", "verify", "--role", "node")).code).toBe(0);
    expect((await pc.exec(["nft", "list", "ruleset"])).stdout).toBe("");
    await startNode(lab);
  });
});
