// A client's routes and firewall on real hosts, with a cable to the home as the tunnel; who answers tells the way that was taken.
// long because every rule and its leak stand beside each other on one pair of hosts
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { silentLogger } from "../../src/base/log.ts";
import { enterNetworkArgv } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { runChildOrThrow } from "../../src/lab/spawn.ts";
import type { ClientFirewallWanted } from "../../src/net/firewall/client.ts";
import { removeTable } from "../../src/net/firewall/nft.ts";
import { nftClientFirewall } from "../../src/net/firewall/nft-client.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import type { ClientRoutesPolicy } from "../../src/net/routes/client-routes.ts";
import { linuxClientRoutes, removeRulesAndRoutes } from "../../src/net/routes/linux.ts";
import { bridgesWithoutUplink } from "../../src/net/routes/local-prefixes.ts";
import { snapshot, until } from "./harness.ts";
import {
  ask,
  cidr,
  execOn,
  ip,
  journalInMemory,
  type Probe,
  serve,
  startProbeLab,
  sysctlOn,
  tcp,
  udp,
} from "./net-hosts.ts";

const MINUTE = 60_000;
const { signal } = new AbortController();
const identifiers = IDENTIFIERS.client;

const WEB4 = "203.0.113.80";
const WEB6 = "2001:db8:80::80";
const VPS4 = "203.0.113.10";
const VPS6 = "2001:db8:10::10";
const HTTP = 80;
const CARRIER = 443;
const DISCOVERY = 51821;
const HIGGS_UID = 997;
const OTHER_UID = 998;

/** The address that the asked host sees tells which way was taken. */
const HOME4 = "203.0.113.7";
const HOME6 = "2001:db8:7:1::10";
const CAFE4 = "203.0.113.66";
const CAFE6 = "2001:db8:66:1::2";

const ROUTES: ClientRoutesPolicy = {
  interface: identifiers.interface,
  families: { 4: "tunnel", 6: "tunnel" },
  tunnelPrefixes: [cidr("10.83.0.0/16"), cidr("fd83:1:2::/48")],
  carrier: [
    { address: ip(VPS4), port: CARRIER },
    { address: ip(VPS6), port: CARRIER },
  ],
  uid: HIGGS_UID,
  discoveryPort: DISCOVERY,
  throwPrefixes: [],
};
/** With nothing closed, so that it is the routes that decide; what is closed is the subject of client-states.test.ts. */
const FIREWALL: ClientFirewallWanted = {
  policy: {
    kind: "exitless",
    tunnel: { interface: identifiers.interface, addresses: [ip("10.83.0.2"), ip("fd83:1:2::2")] },
    own: { carrier: ROUTES.carrier, uid: HIGGS_UID, wireGuardPort: 51820, discoveryPort: DISCOVERY, routers: [] },
  },
  egress: [],
};

/** Everything that an ordinary program sends. */
const ORDINARY: readonly Probe[] = [tcp(WEB4, HTTP), udp(WEB4, HTTP), tcp(WEB6, HTTP), udp(WEB6, HTTP)];
const seenAs = (four: string, six: string): readonly string[] => [four, four, six, six].map((seen) => `web:80 ${seen}`);

/** At once, by the kernel; which error it was the runtime does not always hand on. */
const REFUSED = /^E[A-Z]+$/;

const NAT_AT_HOME = `table inet naive {
  chain post {
    type nat hook postrouting priority 100
    iifname "tun0" oifname "eth0" masquerade
  }
}`;

describe("linuxClientRoutes() on a real client", () => {
  let lab: Lab;
  let clean: string;
  const host = (name: string) => lab.host(name);
  const laptop = () => host("laptop");
  const runOn = async (name: string, ...commands: readonly string[]): Promise<void> => {
    for (const command of commands) await host(name).execOrThrow(command.split(" "));
  };

  function machine() {
    const journal = journalInMemory();
    const exec = execOn(laptop());
    const sysctl = sysctlOn(laptop(), journal);
    const deps = { exec, journal, identifiers, sysctl, log: silentLogger };
    return { exec, routes: linuxClientRoutes(deps), firewall: nftClientFirewall(deps) };
  }
  let client: ReturnType<typeof machine>;

  /** From discovery's port; one family after the other, as the probe's socket would have both. */
  async function askDiscovery(user: number): Promise<readonly string[]> {
    const answers: string[] = [];
    for (const to of [VPS4, VPS6]) {
      answers.push(...(await ask(laptop(), [udp(to, 3478, { fromPort: DISCOVERY })], user)));
    }
    return answers;
  }

  /** A cable that needs no ARP, as both its ends have one address: what goes in comes out, like a tunnel. */
  async function layCable(): Promise<void> {
    const mac = "02:00:00:00:83:01";
    const far = `peer name tun0 address ${mac} netns ${host("home-pc").pid}`;
    const add = `ip link add higgs0 address ${mac} mtu 1420 type veth ${far}`;
    await runChildOrThrow(enterNetworkArgv(laptop().pid, add.split(" ")));
    for (const [name, link, address4, address6] of [
      ["laptop", "higgs0", "10.83.0.2/32", "fd83:1:2::2/128"],
      ["home-pc", "tun0", "10.83.0.1/32", "fd83:1:2::1/128"],
    ] as const) {
      await runOn(
        name,
        `ip addr add ${address4} dev ${link}`,
        `ip -6 addr add ${address6} dev ${link}`,
        `ip link set ${link} arp off up`,
      );
    }
    await runOn("home-pc", "ip route add 10.83.0.2 dev tun0", "ip -6 route add fd83:1:2::2 dev tun0");
    // The kernel tells of a carrier a while after it is there, and gives the link its own address then.
    const settled = async (): Promise<boolean> =>
      / state UP .*fe80::/s.test(
        `${await laptop().execOrThrow(["ip", "link", "show", "dev", "higgs0"])}${await laptop().execOrThrow(["ip", "addr", "show", "dev", "higgs0"])}`,
      );
    await until(settled, { what: "a cable that is up" });
  }

  beforeAll(async () => {
    lab = await startProbeLab(smallInternet());
    await runOn("home-pc", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    await host("home-pc").execOrThrow(["nft", "-f", "-"], { stdin: NAT_AT_HOME });
    await Promise.all([
      serve(host("web"), [HTTP]),
      serve(host("vps"), [HTTP, CARRIER, 3478, 3479]),
      serve(host("cafe-router"), [HTTP]),
      serve(host("home-pc"), [HTTP]),
      serve(laptop(), [HTTP]),
    ]);
  }, MINUTE);

  afterAll(async () => {
    await lab[Symbol.asyncDispose]();
  }, MINUTE);

  beforeEach(async () => {
    await layCable();
    clean = await snapshot(laptop());
    client = machine();
  }, MINUTE);

  afterEach(async () => {
    await client.firewall.reset(signal);
    await client.routes.reset(signal);
    await runOn("laptop", "ip link del higgs0");
  }, MINUTE);

  test(
    "sends everything through the tunnel, and leaves nothing behind",
    async () => {
      expect(await ask(laptop(), ORDINARY)).toEqual(seenAs(CAFE4, CAFE6)); // positive control
      expect(await client.routes.apply(ROUTES, signal)).toBe(true);
      await client.firewall.apply(FIREWALL, signal);
      expect(await ask(laptop(), ORDINARY)).toEqual(seenAs(HOME4, HOME6));
      expect(await client.routes.apply(ROUTES, signal)).toBe(false);
      expect(await client.firewall.verify(signal)).toEqual([]);
      await client.firewall.reset(signal);
      await client.routes.reset(signal);
      await client.routes.reset(signal);
      expect(await snapshot(laptop())).toBe(clean);
      expect(await ask(laptop(), ORDINARY)).toEqual(seenAs(CAFE4, CAFE6));
    },
    MINUTE,
  );

  test(
    "is undone without memory",
    async () => {
      await client.routes.apply(ROUTES, signal);
      await client.firewall.apply(FIREWALL, signal);
      await runOn("laptop", "sysctl -qw net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.all.arp_ignore=0");
      expect(await removeRulesAndRoutes(client.exec, identifiers, signal)).toBe(true);
      expect(await removeTable(client.exec, identifiers, signal)).toBe(true);
      expect(await snapshot(laptop())).toBe(clean);
      expect(await removeRulesAndRoutes(client.exec, identifiers, signal)).toBe(false);
    },
    MINUTE,
  );

  test(
    "holds against a more specific route that the café's DHCP server hands out (TunnelVision)",
    async () => {
      await runOn(
        "laptop",
        `ip route add ${WEB4}/32 via 192.168.7.1`,
        `ip -6 route add ${WEB6}/128 via 2001:db8:66:1::1`,
      );
      await client.routes.apply(ROUTES, signal);
      expect(await ask(laptop(), ORDINARY)).toEqual(seenAs(HOME4, HOME6));
      await runOn("laptop", `ip route del ${WEB4}/32`, `ip -6 route del ${WEB6}/128`);
    },
    MINUTE,
  );

  test(
    "lets the carrier out for its own user, address and port only, and discovery by its port",
    async () => {
      await client.routes.apply(ROUTES, signal);
      await client.firewall.apply(FIREWALL, signal);
      const carrier = [tcp(VPS4, CARRIER), tcp(VPS6, CARRIER), tcp(VPS4, HTTP), udp(VPS4, CARRIER), tcp(WEB4, HTTP)];
      const outside = [`vps:443 ${CAFE4}`, `vps:443 ${CAFE6}`];
      const rest = [`vps:80 ${HOME4}`, `vps:443 ${HOME4}`, `web:80 ${HOME4}`];
      expect(await ask(laptop(), carrier, HIGGS_UID)).toEqual([...outside, ...rest]);
      expect(await ask(laptop(), carrier, OTHER_UID)).toEqual([`vps:443 ${HOME4}`, `vps:443 ${HOME6}`, ...rest]);
      expect(await askDiscovery(HIGGS_UID)).toEqual([`vps:3478 ${CAFE4}`, `vps:3478 ${CAFE6}`]);
      expect(await ask(laptop(), [udp(VPS4, 3478)], HIGGS_UID)).toEqual([`vps:3478 ${HOME4}`]);
    },
    MINUTE,
  );

  test(
    "keeps another user's packets in the tunnel though they have discovery's port, which a killed client leaves free",
    async () => {
      await client.routes.apply(ROUTES, signal);
      await client.firewall.apply(FIREWALL, signal);
      await using sniffer = await laptop().sniff("eth0", "udp port 3478");
      expect(await askDiscovery(OTHER_UID)).toEqual([`vps:3478 ${HOME4}`, `vps:3478 ${HOME6}`]);
      expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
      await askDiscovery(HIGGS_UID); // positive control of the sniffer
      await until(() => sniffer.packets().length > 0, { what: "packets past the tunnel" });
    },
    MINUTE,
  );

  test(
    "keeps a container's packets in the tunnel though they look like discovery's or the carrier's, and root counts as their user",
    async () => {
      const { uid: _, ...rest } = ROUTES;
      const bridge = "172.17.0.1/16";
      await runOn("laptop", "ip link add docker0 type bridge", `ip addr add ${bridge} dev docker0`);
      await runOn("laptop", "ip link set docker0 up", "sysctl -qw net.ipv4.ip_forward=1");
      const asks = [
        `${VPS4} ipproto udp sport ${DISCOVERY} dport 3478`,
        `${VPS4} ipproto tcp sport 40000 dport ${CARRIER}`,
      ];
      const ways = async (from: string): Promise<string[]> =>
        await Promise.all(
          asks.map(async (one) => {
            const [to = "", ...selectors] = one.split(" ");
            const argv = ["ip", "route", "get", to, ...from.split(" ").filter((word) => word !== ""), ...selectors];
            return / dev (\S+)/.exec(await laptop().execOrThrow(argv))?.[1] ?? "";
          }),
        );
      await client.routes.apply({ ...rest, uid: 0, throwPrefixes: [cidr("172.17.0.0/16")] }, signal);
      expect(await ways("uid 0")).toEqual(["eth0", "eth0"]);
      expect(await ways("from 172.17.0.2 iif docker0")).toEqual(["higgs0", "higgs0"]);
      await runOn("laptop", "ip link del docker0", "sysctl -qw net.ipv4.ip_forward=0");
    },
    MINUTE,
  );

  test(
    "gets answers past the tunnel under a strict reverse path filter",
    async () => {
      const rpFilter = async (value: number): Promise<void> =>
        await runOn("laptop", `sysctl -qw net.ipv4.conf.all.rp_filter=${value} net.ipv4.conf.eth0.rp_filter=${value}`);
      // WireGuard's socket, which is marked when it sends, and discovery's, which has WireGuard's port to the world.
      const sockets = `table inet sockets {
        chain marked {
          type route hook output priority -160
          udp sport 51820 udp dport 3479 meta mark set 0x68000
        }
        chain demux_out {
          type filter hook output priority -300
          udp sport ${DISCOVERY} udp sport set 51820
        }
        chain demux_in {
          type filter hook input priority 100
          udp sport 3478 udp dport 51820 udp dport set ${DISCOVERY}
        }
      }`;
      await laptop().execOrThrow(["nft", "-f", "-"], { stdin: sockets });
      const past = async (): Promise<readonly string[]> => [
        ...(await ask(laptop(), [tcp(VPS4, CARRIER)], HIGGS_UID)),
        ...(await ask(laptop(), [udp(VPS4, 3478, { fromPort: DISCOVERY })], HIGGS_UID)),
        ...(await ask(laptop(), [udp(VPS4, 3479, { fromPort: 51820, from: "192.168.7.2" })])),
      ];
      const answered = [`vps:443 ${CAFE4}`, `vps:3478 ${CAFE4}`, `vps:3479 ${CAFE4}`];
      await client.routes.apply(ROUTES, signal);
      expect(await past()).toEqual(answered);
      await rpFilter(1);
      expect(await past()).toEqual(["silence", "silence", "silence"]); // positive control: the filter drops the answers
      await client.firewall.apply(FIREWALL, signal);
      expect(await past()).toEqual(answered);
      expect(await ask(laptop(), ORDINARY)).toEqual(seenAs(HOME4, HOME6));
      await rpFilter(0);
      await laptop().execOrThrow(["nft", "delete", "table", "inet", "sockets"]);
    },
    MINUTE,
  );

  test(
    "refuses everything at once when the tunnel's interface is gone, and nothing goes outside",
    async () => {
      await client.routes.apply(ROUTES, signal);
      await using sniffer = await laptop().sniff("eth0", `host ${WEB4} or host ${WEB6}`);
      await runOn("laptop", "ip link del higgs0");
      for (const answer of await ask(laptop(), ORDINARY)) expect(answer).toMatch(REFUSED);
      for (const to of [WEB4, WEB6]) {
        expect((await laptop().exec(["ip", "route", "get", to])).stderr).toContain("No route to host");
      }
      expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
      await layCable();
      expect(await client.routes.apply(ROUTES, signal)).toBe(true);
      expect(await ask(laptop(), ORDINARY)).toEqual(seenAs(HOME4, HOME6));
      expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
      await client.routes.reset(signal);
      expect(await ask(laptop(), [tcp(WEB4, HTTP)])).toEqual([`web:80 ${CAFE4}`]); // positive control of the sniffer
      await until(() => sniffer.packets().length > 0, { what: "packets past the tunnel" });
    },
    MINUTE,
  );

  test(
    "refuses IPv6 where the exit has none, but for the network's own",
    async () => {
      await client.routes.apply({ ...ROUTES, families: { 4: "tunnel", 6: "refuse" } }, signal);
      const answers = await ask(laptop(), [...ORDINARY, tcp("fd83:1:2::1", HTTP)]);
      expect(answers.slice(0, 2)).toEqual([`web:80 ${HOME4}`, `web:80 ${HOME4}`]);
      for (const answer of answers.slice(2, 4)) expect(answer).toMatch(REFUSED);
      expect(answers[4]).toBe("home-pc:80 fd83:1:2::2");
    },
    MINUTE,
  );

  test(
    "without an exit takes only the network's own into the tunnel, and never lets that out",
    async () => {
      await client.routes.apply({ ...ROUTES, families: { 4: "own", 6: "own" } }, signal);
      expect(await ask(laptop(), ORDINARY)).toEqual(seenAs(CAFE4, CAFE6));
      expect(await ask(laptop(), [tcp("10.83.0.1", HTTP), tcp("fd83:1:2::1", HTTP)])).toEqual([
        "home-pc:80 10.83.0.2",
        "home-pc:80 fd83:1:2::2",
      ]);
      await runOn("laptop", "ip link del higgs0");
      for (const answer of await ask(laptop(), [tcp("10.83.0.1", HTTP), tcp("fd83:1:2::1", HTTP)])) {
        expect(answer).toMatch(REFUSED);
      }
      await layCable();
    },
    MINUTE,
  );

  test(
    "sends the LAN into the tunnel unless it is allowed, and keeps bridges of containers reachable",
    async () => {
      const gateway = tcp("192.168.7.1", HTTP, { waitMs: 500 });
      await client.routes.apply(ROUTES, signal);
      expect((await ask(laptop(), [gateway]))[0]).not.toStartWith("cafe-router:80");
      await client.routes.apply({ ...ROUTES, throwPrefixes: [cidr("192.168.7.0/24")] }, signal);
      expect(await ask(laptop(), [tcp("192.168.7.1", HTTP)])).toEqual(["cafe-router:80 192.168.7.2"]);

      await runOn(
        "laptop",
        "ip link add docker0 type bridge",
        "ip addr add 172.17.0.1/16 dev docker0",
        "ip link set docker0 up",
      );
      const links: unknown = JSON.parse(await laptop().execOrThrow(["ip", "-j", "-d", "link", "show"]));
      expect(bridgesWithoutUplink(links, { uplinks: ["eth0"] })).toEqual(["docker0"]);
      const way = async (): Promise<string> => await laptop().execOrThrow(["ip", "route", "get", "172.17.0.2"]);
      expect(await way()).toContain("dev higgs0");
      await client.routes.apply({ ...ROUTES, throwPrefixes: [cidr("172.17.0.0/16")] }, signal);
      expect(await way()).toContain("dev docker0");
      await runOn("laptop", "ip link del docker0");
    },
    MINUTE,
  );

  test(
    "drops what others send to the tunnel's address",
    async () => {
      await runOn("cafe-router", "ip route add 10.83.0.2/32 via 192.168.7.2");
      const probe = [tcp("10.83.0.2", HTTP)];
      expect(await ask(host("cafe-router"), probe)).toEqual(["laptop:80 192.168.7.1"]); // positive control
      await client.routes.apply({ ...ROUTES, throwPrefixes: [cidr("192.168.7.0/24")] }, signal);
      expect(await ask(host("cafe-router"), probe)).toEqual(["laptop:80 192.168.7.1"]); // with routes alone
      await client.firewall.apply(FIREWALL, signal);
      expect(await ask(host("cafe-router"), probe)).toEqual(["silence"]);
      await runOn("cafe-router", "ip route del 10.83.0.2/32");
    },
    MINUTE,
  );

  test(
    "works where IPv6 was switched off on the machine",
    async () => {
      await runOn("laptop", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
      expect(await client.routes.apply(ROUTES, signal)).toBe(true);
      expect(await client.routes.apply(ROUTES, signal)).toBe(false);
      expect(await ask(laptop(), [tcp(WEB4, HTTP)])).toEqual([`web:80 ${HOME4}`]);
      expect(await laptop().execOrThrow(["ip", "-6", "route", "show", "table", "5270"])).toStartWith(
        "unreachable default",
      );
      await client.routes.reset(signal);
      await runOn("laptop", "sysctl -qw net.ipv6.conf.all.disable_ipv6=0");
    },
    MINUTE,
  );
});
