// An exit on real hosts: each probe first without the table, then under a lease, then after it.
// long because every rule is tried with each mechanism in one home, which takes longer to build than a test.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { silentLogger } from "../../src/base/log.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import type { HostSpec, InterfaceSpec, Topology } from "../../src/lab/topology.ts";
import { type ExitFirewall, type ExitPolicy, LEASE_S, USUAL_OUTLET } from "../../src/net/firewall/exit.ts";
import { enableForwarding } from "../../src/net/forwarding.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import { exitMechanisms } from "./exit-mechanism.ts";
import { snapshot, until } from "./harness.ts";
import {
  ask,
  cidr,
  ip,
  journalInMemory,
  type Probe,
  serve,
  startProbeLab,
  stream,
  sysctlOn,
  tcp,
  udp,
} from "./net-hosts.ts";

const MINUTE = 60_000;
const { signal } = new AbortController();
const identifiers = IDENTIFIERS.node;

const CLIENT4 = "10.83.0.2";
const CLIENT6 = "fd83:1:2::2";
const STRANGER4 = "10.83.0.66";
const WEB4 = "203.0.113.80";
const WEB6 = "2001:db8:80::80";
/** What the web sees of the home, and of the node. */
const HOME4 = "203.0.113.7";
const NODE6 = "2001:db8:7:1::10";
const SSH = 22;
const HTTP = 80;
const MAIL = 25;
/** Time enough to ask while it lasts. */
const SHORT_LEASE_S = 8;
const RESOLVER = 5300;
/** What must never be seen on the node's LAN: a packet with an address of the tunnel as its source. */
const LEAKS = "src net 10.83.0.0/16 or src net fd83::/16";

const POLICY: ExitPolicy = {
  interface: identifiers.interface,
  uplinks: ["eth0"],
  clients4: [ip(CLIENT4), ip("10.83.0.3")],
  clients6: [ip(CLIENT6), ip("fd83:1:2::3")],
  addresses: [ip("10.83.0.1"), ip("fd83:1:2::1")],
  here4: [cidr("192.168.1.0/24"), cidr("203.0.113.7/32")],
  here6: [cidr("2001:db8:7::/48")],
  fence4: [],
  fence6: [],
  outlet: USUAL_OUTLET,
  resolverPort: RESOLVER,
  leaseS: LEASE_S,
  open: true,
};

/** The home with a tunnel's stand-in: a cable between two clients and the node, named as the tunnel would be. */
function topology(): Topology {
  const small = smallInternet({ homeRouter: { acceptInput: true } });
  const cable = (name: string, n: number): InterfaceSpec => ({
    name,
    segment: "tunnel",
    ipv4: `10.83.0.${n}/24`,
    ipv6: [`fd83:1:2::${n}/64`],
  });
  const client = (name: string, n: number): HostSpec => ({
    name,
    kind: "host",
    interfaces: [cable("higgs0", n)],
    routes: [
      { to: "default4", via: "10.83.0.1" },
      { to: "default6", via: "fd83:1:2::1" },
    ],
    nameservers: [],
  });
  const hosts = small.hosts
    .filter((host) => !["cafe-router", "laptop", "vps", "dns"].includes(host.name))
    .map((host) =>
      host.name === "home-pc" ? { ...host, interfaces: [...host.interfaces, cable(identifiers.interface, 1)] } : host,
    );
  return {
    segments: [...small.segments.filter((segment) => segment.name !== "cafe-lan"), { name: "tunnel" }],
    hosts: [...hosts, client("client", 2), client("other", 3)],
  };
}

/** Each probe of the table with its name, from the client. */
const INTERNET: Readonly<Record<string, Probe>> = {
  "internet, tcp": tcp(WEB4, HTTP),
  "internet, udp": udp(WEB4, HTTP),
  "internet, tcp 6": tcp(WEB6, HTTP),
  "internet, udp 6": udp(WEB6, HTTP),
};
const DNS: Readonly<Record<string, Probe>> = {
  "dns, udp": udp(WEB4, 53),
  "dns, tcp": tcp(WEB4, 53),
  "dns, udp 6": udp(WEB6, 53),
  "dns, tcp 6": tcp(WEB6, 53),
};
const FORBIDDEN: Readonly<Record<string, Probe>> = {
  "a host of the LAN": tcp("192.168.1.20", SSH),
  "a host of the LAN, udp": udp("192.168.1.20", SSH),
  "an IPv6 neighbour": tcp("2001:db8:7:1::20", SSH),
  "the node by its tunnel address": tcp("10.83.0.1", SSH),
  "the node by its LAN address": tcp("192.168.1.10", SSH),
  "the node by its tunnel address, 6": tcp("fd83:1:2::1", SSH),
  "the node by its public address, 6": tcp(NODE6, SSH),
  "the node's resolver by its own port": tcp("10.83.0.1", RESOLVER),
  "the router by its LAN address": tcp("192.168.1.1", HTTP),
  "the router by its public address": tcp(HOME4, HTTP),
  "the router by its LAN address, 6": tcp("2001:db8:7:1::1", HTTP),
  mail: tcp(WEB4, MAIL),
  "mail, 6": tcp(WEB6, MAIL),
  "another source": udp(WEB4, HTTP, { from: STRANGER4 }),
};

describe.each([...exitMechanisms("nft", "iptables-legacy")])(
  "the exit's firewall by $name on a real node",
  (mechanism) => {
    let lab: Lab;
    let clean: string;
    const journal = journalInMemory();
    const host = (name: string) => lab.host(name);
    const firewall = () => mechanism.firewall(host("home-pc"), journal);
    const stateOf = () => snapshot(host("home-pc"), { without: mechanism.unsteady });
    let exit: ExitFirewall;

    const asked = async (probes: Readonly<Record<string, Probe>>, from = "client"): Promise<Record<string, string>> => {
      const answers = await ask(host(from), Object.values(probes));
      return Object.fromEntries(Object.keys(probes).map((name, at) => [name, answers[at] ?? ""]));
    };
    const unanswered = async (probes: Readonly<Record<string, Probe>>, from = "client"): Promise<readonly string[]> =>
      Object.entries(await asked(probes, from))
        .filter(([, answer]) => !answer.includes(":"))
        .map(([name]) => name);
    const all = (probes: Readonly<Record<string, Probe>>) => Object.keys(probes);
    const macOf = async (name: string, device = "higgs0"): Promise<string> =>
      (await host(name).readFile(`/sys/class/net/${device}/address`)).trim();

    beforeAll(async () => {
      lab = await startProbeLab(topology());
      // A tunnel has no neighbours to ask for: the rules refuse their questions, and what the cable knows of them runs out in between.
      const macs = await Promise.all([macOf("home-pc", identifiers.interface), macOf("client"), macOf("other")]);
      const known = async (name: string, device: string, n: number): Promise<void> => {
        const entry = ["ip", "-6", "neigh", "replace", `fd83:1:2::${n}`, "lladdr", macs[n - 1] ?? "", "dev", device];
        await host(name).execOrThrow([...entry, "nud", "permanent"]);
      };
      for (const [name, n] of [
        ["client", 2],
        ["other", 3],
      ] as const) {
        await known(name, "higgs0", 1);
        await known("home-pc", identifiers.interface, n);
      }
      await host("client").execOrThrow(["ip", "addr", "add", `${STRANGER4}/24`, "dev", "higgs0"]);
      await host("client").execOrThrow(["ip", "route", "add", "10.83.0.3/32", "via", "10.83.0.1"]);
      await host("home-nas").execOrThrow(["ip", "route", "add", "10.83.0.0/24", "via", "192.168.1.10"]);
      await host("home-nas").execOrThrow(["ip", "route", "add", WEB4, "via", "192.168.1.10"]);
      await host("home-router").execOrThrow(["ip", "route", "add", "10.83.0.0/24", "via", "192.168.1.10"]);
      await host("home-router").execOrThrow(["ip", "-6", "route", "add", "fd83:1:2::/64", "via", NODE6]);
      await Promise.all([
        serve(host("web"), [HTTP, MAIL, 53]),
        serve(host("home-nas"), [SSH]),
        serve(host("home-pc"), [SSH, RESOLVER]),
        serve(host("home-router"), [HTTP]),
        serve(host("client"), [HTTP]),
        serve(host("other"), [HTTP]),
      ]);
      await mechanism.prepare(host("home-pc"));
      clean = await stateOf();
      exit = await firewall();
    }, MINUTE);

    afterAll(async () => {
      await lab[Symbol.asyncDispose]();
    }, MINUTE);

    test(
      "positive control: without the table a node that forwards gives everything away",
      async () => {
        const missing = await enableForwarding(
          { uplinks: ["eth0"], ipv6: true },
          { sysctl: sysctlOn(host("home-pc"), journal), log: silentLogger },
        );
        expect(missing).toEqual([]);
        await mechanism.giveAway(host("home-pc"), "10.83.0.0/16");
        try {
          expect(await unanswered({ ...INTERNET, ...DNS, ...FORBIDDEN })).toEqual([]);
          expect(await unanswered({ "another client": tcp("10.83.0.3", HTTP) })).toEqual([]);
          await using sniffer = await host("home-pc").sniff("eth0", LEAKS);
          expect(await unanswered({ client: tcp(CLIENT4, HTTP) }, "home-nas")).toEqual([]);
          await until(() => sniffer.packets().some((packet) => packet.text.includes(CLIENT4)));
          expect(await unanswered({ client: tcp(CLIENT4, HTTP), client6: tcp(CLIENT6, HTTP) }, "home-router")).toEqual(
            [],
          );
        } finally {
          // What fails here shall not fail the tests after it.
          await mechanism.takeBack(host("home-pc"));
        }
      },
      MINUTE,
    );

    test(
      "lets clients reach the internet in both families as the node, and its resolver whichever they ask",
      async () => {
        await exit.apply(POLICY, signal);
        expect(await asked({ ...INTERNET, ...DNS })).toEqual({
          "internet, tcp": `web:80 ${HOME4}`,
          "internet, udp": `web:80 ${HOME4}`,
          "internet, tcp 6": `web:80 ${NODE6}`,
          "internet, udp 6": `web:80 ${NODE6}`,
          "dns, udp": `home-pc:5300 ${CLIENT4}`,
          "dns, tcp": `home-pc:5300 ${CLIENT4}`,
          "dns, udp 6": `home-pc:5300 ${CLIENT6}`,
          "dns, tcp 6": `home-pc:5300 ${CLIENT6}`,
        });
        expect(await exit.verify(signal)).toEqual([]);
      },
      MINUTE,
    );

    test(
      "keeps the node, its LAN, its router and other clients out of reach, in both families",
      async () => {
        await using sniffer = await host("home-pc").sniff("eth0", LEAKS);
        expect(await unanswered(FORBIDDEN)).toEqual(all(FORBIDDEN));
        expect(await unanswered({ "another client": tcp("10.83.0.3", HTTP) })).toEqual(["another client"]);
        expect(await unanswered({ client: tcp(CLIENT4, HTTP), udp: udp(CLIENT4, HTTP) }, "home-nas")).toEqual([
          "client",
          "udp",
        ]);
        const fromOutside = { client: tcp(CLIENT4, HTTP), client6: tcp(CLIENT6, HTTP), node: tcp("10.83.0.1", SSH) };
        expect(await unanswered(fromOutside, "home-router")).toEqual(all(fromOutside));
        expect(await unanswered({ internet: tcp(WEB4, HTTP), udp: udp(WEB4, HTTP) }, "home-nas")).toEqual([]);
        expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
      },
      MINUTE,
    );

    test(
      "is no router for its neighbours where it forwards for us alone",
      async () => {
        await exit.apply({ ...POLICY, fence4: ["eth0"], fence6: ["eth0"] }, signal);
        expect(await exit.verify(signal)).toEqual([]);
        const neighbour = { internet: tcp(WEB4, HTTP), udp: udp(WEB4, HTTP) };
        expect(await unanswered(neighbour, "home-nas")).toEqual(all(neighbour));
        expect(await unanswered({ ...INTERNET, ...DNS })).toEqual([]);
        await exit.apply(POLICY, signal);
        expect(await unanswered(neighbour, "home-nas")).toEqual([]);
      },
      MINUTE,
    );

    test(
      "bug: nor for packets of no connection, which have no status that a rule could deny",
      async () => {
        const { name } = mechanism;
        const rule = "PREROUTING -s 192.168.1.20 -j NOTRACK";
        const [begin, end] =
          name === "nft"
            ? [
                'nft "add table ip blind; add chain ip blind in { type filter hook prerouting priority -300; }; add rule ip blind in ip saddr 192.168.1.20 notrack"',
                "nft delete table ip blind",
              ]
            : [`${name} -t raw -I ${rule}`, `${name} -t raw -D ${rule}`];
        const neighbour = { udp: udp(WEB4, HTTP) };
        // Or the home PC would tell the neighbour of a shorter way.
        const redirects = (value: 0 | 1) =>
          ["all", "eth0"].map((one) => `net.ipv4.conf.${one}.send_redirects=${value}`);
        await host("home-pc").execOrThrow(["sysctl", "-qw", ...redirects(0)]);
        await host("home-nas").execOrThrow(["ip", "route", "flush", "cache"]);
        await host("home-pc").execOrThrow(["sh", "-c", begin]);
        try {
          expect(await unanswered(neighbour, "home-nas")).toEqual([]);
          await exit.apply({ ...POLICY, fence4: ["eth0"], fence6: ["eth0"] }, signal);
          expect(await unanswered(neighbour, "home-nas")).toEqual(all(neighbour));
        } finally {
          await host("home-pc").execOrThrow(["sh", "-c", end]);
          await host("home-pc").execOrThrow(["sysctl", "-qw", ...redirects(1)]);
          await exit.apply(POLICY, signal);
        }
      },
      MINUTE,
    );

    test(
      "loses no packet while rules and clients change",
      async () => {
        const running = await stream(host("client"), udp(WEB4, HTTP));
        for (let round = 0; round < 5; round++) {
          await exit.apply(
            { ...POLICY, open: false, here4: [...POLICY.here4, cidr(`198.51.100.${round}/32`)] },
            signal,
          );
          await exit.setClients({ clients4: [ip(CLIENT4)], clients6: [] }, signal);
          await exit.renewLease(signal);
        }
        const { sent, lost } = await running.stop();
        expect(sent).toBeGreaterThan(10);
        expect(lost).toBe(0);
        expect(await exit.verify(signal)).toEqual([]);
      },
      MINUTE,
    );

    test(
      "cuts off a client that is taken away",
      async () => {
        await exit.setClients({ clients4: [ip("10.83.0.3")], clients6: [] }, signal);
        expect(await unanswered({ ...INTERNET, ...DNS })).toEqual(all({ ...INTERNET, ...DNS }));
        await exit.setClients(POLICY, signal);
        expect(await unanswered({ ...INTERNET, ...DNS })).toEqual([]);
      },
      MINUTE,
    );

    const leaseLeftS = (leaseS?: number): Promise<number> => mechanism.leaseLeftS(host("home-pc"), leaseS);

    test(
      "closes by itself when the lease runs out, isolated as before, and opens again with a new one",
      async () => {
        await exit.apply({ ...POLICY, leaseS: SHORT_LEASE_S }, signal);
        expect(await unanswered(INTERNET)).toEqual([]);
        await until(async () => (await leaseLeftS(SHORT_LEASE_S)) === -1, { what: "the end of the lease" });
        const closed = { ...INTERNET, ...DNS, ...FORBIDDEN };
        expect(await unanswered(closed)).toEqual(all(closed));
        expect(await unanswered({ client: tcp(CLIENT4, HTTP) }, "home-nas")).toEqual(["client"]);
        expect(await unanswered({ internet: tcp(WEB4, HTTP) }, "home-nas")).toEqual([]);
        expect(await exit.verify(signal)).toEqual([]);
        await exit.apply({ ...POLICY, open: false }, signal);
        expect(await unanswered(INTERNET)).toEqual(all(INTERNET));
        await exit.renewLease(signal);
        expect(await unanswered(INTERNET)).toEqual([]);
      },
      MINUTE,
    );

    test(
      "renews a lease that lives, and hands it to new rules with what it has left",
      async () => {
        await exit.renewLease(signal);
        await until(async () => (await leaseLeftS()) <= LEASE_S - 3);
        await exit.apply({ ...POLICY, open: false, here4: [] }, signal);
        expect(await leaseLeftS()).toBeLessThanOrEqual(LEASE_S - 3);
        expect(await leaseLeftS()).toBeGreaterThan(0);
        await exit.renewLease(signal);
        expect(await leaseLeftS()).toBeGreaterThan(LEASE_S - 3);
        await exit.closeLease(signal);
        expect(await leaseLeftS()).toBe(-1);
      },
      MINUTE,
    );

    test(
      "is taken over by a process that starts anew, without a change",
      async () => {
        await exit.apply(POLICY, signal);
        const before = await mechanism.rules(host("home-pc"));
        exit = await firewall();
        await exit.apply({ ...POLICY, open: false }, signal);
        expect(await mechanism.rules(host("home-pc"))).toBe(before);
      },
      MINUTE,
    );

    test(
      "lets nothing pass without an uplink",
      async () => {
        await exit.apply({ ...POLICY, uplinks: [] }, signal);
        expect(await unanswered(INTERNET)).toEqual(all(INTERNET));
        await exit.apply(POLICY, signal);
      },
      MINUTE,
    );

    test(
      "names a host firewall that swallows what is forwarded, until a person lets the tunnel through",
      async () => {
        const pc = host("home-pc");
        const { tool, said } = mechanism.forwardDrop;
        const drops = () => mechanism.foreignDrops(pc);
        expect(await drops()).toEqual([]);
        await pc.execOrThrow([tool, "-P", "FORWARD", "DROP"]);
        expect(await unanswered({ internet: tcp(WEB4, HTTP) })).toEqual(["internet"]);
        expect(await drops()).toEqual([said]);
        const forward = ["-m", "comment", "--comment", "higgs", "-j", "ACCEPT"];
        await pc.execOrThrow([tool, "-I", "FORWARD", "-i", "higgsn0", ...forward]);
        const answers = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"];
        await pc.execOrThrow([tool, "-I", "FORWARD", "-o", "higgsn0", ...answers, ...forward]);
        expect(await drops()).toEqual([]);
        // A rule before ours: what stands there has its say first, so ours go first again.
        await exit.apply(POLICY, signal);
        expect(await exit.verify(signal)).toEqual([]);
        expect(await unanswered({ internet: tcp(WEB4, HTTP) })).toEqual([]);
        expect(await unanswered({ lan: tcp("192.168.1.20", SSH) })).toEqual(["lan"]);
        await pc.execOrThrow([tool, "-P", "FORWARD", "ACCEPT"]);
        await pc.execOrThrow([tool, "-D", "FORWARD", "-i", "higgsn0", ...forward]);
        await pc.execOrThrow([tool, "-D", "FORWARD", "-o", "higgsn0", ...answers, ...forward]);
        if (mechanism.name === "nft") await pc.execOrThrow(["nft", "delete", "table", "ip", "filter"]);
      },
      MINUTE,
    );

    test(
      "leaves nothing behind, with and without memory",
      async () => {
        await exit.reset(signal);
        await exit.reset(signal);
        await sysctlOn(host("home-pc"), journal).restore();
        expect(await stateOf()).toBe(clean);
        await (await firewall()).apply(POLICY, signal);
        expect(await mechanism.remove(host("home-pc"))).toBe(true);
        expect(await mechanism.remove(host("home-pc"))).toBe(false);
        expect(await mechanism.rules(host("home-pc"))).toBe("");
        expect(await stateOf()).toBe(clean);
      },
      MINUTE,
    );
  },
);
