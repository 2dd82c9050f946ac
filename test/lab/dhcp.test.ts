// A café whose DHCP and router advertisements are hostile: the lease is kept, nothing passes beside the tunnel, names least of all.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { cafeHost, smallInternet, WEB_NAME } from "../../src/lab/small-internet.ts";
import {
  higgs,
  higgsOrThrow,
  HOME4,
  HOME6,
  killNow,
  leaksOf,
  PAGE,
  PAGE4,
  PAGE6,
  page,
  pidOf,
  type Probing,
  startClientLab,
  startNetwork,
  startProbing,
  wireGuardPids,
  wireGuardPort,
} from "./client-lab.ts";
import { debianRoot, NETWORK_SETUP } from "./debian-root.ts";
import {
  advertise,
  believeAdvertisements,
  type DhcpOffer,
  installDebian,
  leasedAddress,
  startDhcpServer,
  takeLease,
} from "./dhcp-scene.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
/** The packages of a Debian are fetched and unpacked once. */
const START_MS = 5 * MINUTE;
const EXIT_BLOCKED = 10;
const LEASE = "192.168.7.100";
const ROGUE4 = "192.168.7.66";
const ROGUE_PREFIX = "2001:db8:bad:1";
const ROGUE_NAMES = `${ROGUE_PREFIX}::66`;
/** TunnelVision: both halves of the internet, and the very page. Names are asked of the rogue. */
const HOSTILE: DhcpOffer = {
  interface: "lan",
  address: LEASE,
  router: "192.168.7.1",
  nameserver: ROGUE4,
  routes: ["0.0.0.0/1", "192.168.7.1", "128.0.0.0/1", "192.168.7.1", "203.0.113.80/32", ROGUE4],
  renewS: 3,
  rebindS: 6,
};
const PUBLIC: DhcpOffer = { ...HOSTILE, address: "198.51.100.100", router: "198.51.100.1", routes: [], rebindS: 4 };
const RENEWED = /^udp 192\.168\.7\.100:68 > 192\.168\.7\.1:67 /;
const REBOUND = /^udp \S+:68 > 255\.255\.255\.255:67 /;

let lab: Lab;
let laptop: LabHost;
let router: LabHost;
let rogue: LabHost;
let leaks: string;
let server: LabProcess;
let lease: LabProcess;
let probing: Probing;

beforeAll(async () => {
  const poisoned = [{ name: WEB_NAME, type: "A", data: ROGUE4 }] as const;
  const services = [{ kind: "dns", zone: poisoned }] as const;
  const topology = smallInternet({ extraHosts: [{ ...cafeHost("rogue", 66), services }] });
  lab = await startClientLab(topology, { visible: [await debianRoot(NETWORK_SETUP)] });
  [laptop, router, rogue] = [lab.host("laptop"), lab.host("cafe-router"), lab.host("rogue")];
  await Promise.all([startNetwork(lab), ...[laptop, router, rogue].map(installDebian)]);
  await client("up");
  leaks = await leaksOf(laptop, await wireGuardPort(laptop));
  await client("down");
  server = await startDhcpServer(router, HOSTILE);
  await advertise(router, { interface: "lan", prefix: "2001:db8:66:1", preference: "medium", routes: [] });
  const names = { server: ROGUE_NAMES, search: "rogue.example" };
  await advertise(rogue, { interface: "eth0", prefix: ROGUE_PREFIX, preference: "high", routes: ["2000::/3"], names });
  await rogue.execOrThrow([
    "sh",
    "-c",
    `sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0; ip -6 addr add ${ROGUE_NAMES}/64 dev eth0 nodad`,
  ]);
  await believeAdvertisements(laptop);
  probing = await startProbing(laptop);
}, START_MS);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

const client = (...args: readonly string[]): Promise<string> => higgsOrThrow(laptop, "client", ...args);

interface Seen {
  /** Protocol and destination of what should not leave, each once. */
  readonly leaked: readonly string[];
  readonly dhcp: readonly string[];
}

/** What the café and the rogue see of the laptop while `act` goes on. */
async function seenDuring(act: (leakedNow: () => readonly string[]) => Promise<unknown>): Promise<Seen> {
  await using atRouter = await router.sniff("lan", leaks);
  await using atRogue = await rogue.sniff("eth0", leaks);
  await using leasing = await router.sniff("lan", "udp src port 68 and udp dst port 67");
  const leakedNow = (): readonly string[] => {
    const texts = [atRouter, atRogue].flatMap((sniffer) => sniffer.packets().map(({ text }) => kindOf(text)));
    return [...new Set(texts)].toSorted();
  };
  await act(leakedNow);
  return { leaked: leakedNow(), dhcp: leasing.packets().map(({ text }) => text) };
}

function kindOf(text: string): string {
  return text.replace(/^(\S+) \S+ > (\S+).*$/, "$1 to $2");
}

/** Resolves when the server has acknowledged the lease so many times more. */
async function acknowledged(times: number): Promise<void> {
  const count = (): number => server.lines.filter((line) => line.includes("DHCPACK")).length;
  const before = count();
  await until(() => count() >= before + times, { timeoutMs: 30_000, what: `${times} acknowledgements of the lease` });
}

/** The way to the page by its name, and in both families by its addresses, is the tunnel's. */
async function browses(): Promise<void> {
  await until(async () => [HOME4, HOME6].includes(await page(laptop, PAGE)), { what: "the page by its name" });
  expect(await page(laptop, PAGE4)).toBe(HOME4);
  expect(await page(laptop, PAGE6)).toBe(HOME6);
}

async function addressOfPage(): Promise<string> {
  return (await laptop.exec(["getent", "ahostsv4", WEB_NAME])).stdout.split(/\s/)[0] ?? "";
}

/** As a switch that passes broadcasts alone. */
async function withoutUnicast(act: () => Promise<unknown>): Promise<void> {
  const rules = `table inet switch {
    chain pre {
      type filter hook prerouting priority -300
      iifname "lan" udp dport 67 ip daddr != 255.255.255.255 drop
    }
  }`;
  await router.execOrThrow(["nft", "-f", "-"], { stdin: rules });
  try {
    await act();
  } finally {
    await router.execOrThrow(["nft", "delete", "table", "inet", "switch"]);
  }
}

/** The probes of client-probe.program.ts, and whom the resolver was told to ask. */
const EVERYTHING = [
  "tcp to 203.0.113.80:80",
  "tcp to [2001:db8:80::80]:80",
  "udp to 192.168.7.1:53",
  `udp to ${ROGUE4}:53`,
  "udp to 203.0.113.53:53",
  "udp to 203.0.113.80:9999",
  "udp to [2001:db8:53::53]:53",
  "udp to [2001:db8:80::80]:9999",
  `udp to [${ROGUE_NAMES}]:53`,
];

describe("a café that lies in every way it can", () => {
  test(
    "positive control: without higgs it bends the routes, names what it likes, and sees everything",
    async () => {
      lease = await takeLease(laptop, "dhclient");
      const { leaked, dhcp } = await seenDuring(async (leakedNow) => {
        await until(async () => (await laptop.execOrThrow(["ip", "-6", "route"])).includes("2000::/3 via fe80"));
        await until(async () => (await laptop.readFile("/etc/resolv.conf")).includes(ROGUE_NAMES));
        await acknowledged(1); // dhclient's script writes its own name server before
        await until(async () => (await addressOfPage()) === ROGUE4, { what: "the rogue's word for the page's name" });
        await until(
          async () => {
            await addressOfPage(); // it asks whom it was told to ask
            return EVERYTHING.every((kind) => leakedNow().includes(kind));
          },
          { what: "a packet of each kind" },
        ).catch(() => undefined); // what is missing is told below
      });
      expect(leaked.filter((kind) => EVERYTHING.includes(kind))).toEqual(EVERYTHING.toSorted());
      expect(dhcp.some((text) => RENEWED.test(text))).toBe(true);
      const wayTo = (to: string): Promise<string> => laptop.execOrThrow(["ip", "route", "get", to]);
      expect(await wayTo("203.0.113.80")).toContain(`via ${ROGUE4}`);
      expect(await wayTo("2001:db8:80::80")).toContain("proto ra");
    },
    MINUTE,
  );

  test(
    "renews a connected laptop's lease, and sees nothing of it but that",
    async () => {
      await client("up");
      const { leaked, dhcp } = await seenDuring(async () => {
        await acknowledged(1);
        await browses();
      });
      expect(leaked).toEqual([]);
      expect(dhcp.some((text) => RENEWED.test(text))).toBe(true);
      expect(await leasedAddress(laptop)).toBe(LEASE);
    },
    MINUTE,
  );

  test(
    "rebinds it by broadcast where its server is not reached otherwise, under lockdown too",
    async () => {
      await client("lockdown", "on");
      const { leaked, dhcp } = await seenDuring(() => withoutUnicast(() => acknowledged(1)));
      await browses();
      expect(leaked).toEqual([]);
      expect(dhcp.some((text) => REBOUND.test(text))).toBe(true);
      expect(await leasedAddress(laptop)).toBe(LEASE);
    },
    MINUTE,
  );

  test(
    "renews the lease of a laptop that the kill switch has closed, and gives it a new one",
    async () => {
      await client("down");
      const { leaked, dhcp } = await seenDuring(async () => {
        await acknowledged(1);
        lease.kill();
        await lease.exited;
        lease = await takeLease(laptop, "udhcpc");
      });
      expect(leaked).toEqual([]);
      expect(dhcp.some((text) => RENEWED.test(text))).toBe(true);
      expect(await leasedAddress(laptop)).toBe(LEASE);
      expect((await higgs(laptop, "client", "status")).code).toBe(EXIT_BLOCKED);
      await client("lockdown", "off");
    },
    MINUTE,
  );

  test(
    "serves busybox' udhcpc as well, whose script writes the name servers anew with each renewal",
    async () => {
      await client("up");
      const { leaked, dhcp } = await seenDuring(async () => {
        const renewed = acknowledged(1);
        lease.kill("SIGUSR1");
        await renewed;
        await browses();
      });
      expect(leaked).toEqual([]);
      expect(dhcp.some((text) => RENEWED.test(text))).toBe(true);
      expect(await leasedAddress(laptop)).toBe(LEASE);
    },
    MINUTE,
  );

  test(
    "canary: with the rules of a client that was killed taken out, the same check sees everything again",
    async () => {
      await killNow(laptop, await pidOf(laptop, "client"), ...(await wireGuardPids(laptop, "higgs0")));
      const probes = EVERYTHING.filter((kind) => !kind.includes(ROGUE4) && !kind.includes(ROGUE_NAMES));
      const { leaked } = await seenDuring(async (leakedNow) => {
        await laptop.execOrThrow(["nft", "delete", "table", "inet", "higgs_client"]);
        for (const family of ["-4", "-6"]) await laptop.execOrThrow(["ip", family, "rule", "del", "pref", "5270"]);
        const rounds = probing.rounds();
        await until(() => probing.rounds() >= rounds + 5, { what: "five rounds of probes" });
        await until(() => probes.every((kind) => leakedNow().includes(kind))).catch(() => undefined); // told below
      });
      expect(leaked.filter((kind) => probes.includes(kind))).toEqual(probes.toSorted());
      await higgsOrThrow(laptop, "state", "clean", "--role", "client");
    },
    MINUTE,
  );

  test(
    "calls a public prefix its LAN (LocalNet), and gets nothing although the LAN is allowed; the lease is kept by broadcast",
    async () => {
      lease.kill();
      server.kill();
      await Promise.all([lease.exited, server.exited]);
      await router.execOrThrow(["ip", "addr", "add", "198.51.100.1/24", "dev", "lan"]);
      server = await startDhcpServer(router, PUBLIC);
      lease = await takeLease(laptop, "dhclient");
      const toRouter = () => laptop.exec(["ping", "-n", "-c", "1", "-W", "1", PUBLIC.router]);
      const control = await seenDuring(toRouter);
      expect(control.leaked).toContain(`icmp to ${PUBLIC.router}`);
      await client("up", "--lan");
      const { leaked, dhcp } = await seenDuring(async () => {
        await acknowledged(1);
        await toRouter();
        expect(await page(laptop, PAGE4)).toBe(HOME4);
      });
      expect(leaked).toEqual([]);
      expect(dhcp.every((text) => REBOUND.test(text))).toBe(true);
      expect(await leasedAddress(laptop)).toBe(PUBLIC.address);
      await client("down");
    },
    MINUTE,
  );
});
