// Beside other VPNs, by wg-quick itself and by the rules that Tailscale makes: found before anything is touched, and left as they were.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { carried } from "higgs:carried-wireguard-go";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import {
  DNS_FLAGS,
  HIGGS,
  higgs,
  higgsOrThrow,
  HOME4,
  page,
  PAGE4,
  startClientLab,
  startNetwork,
  untilBrowses,
} from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";
import { clientStatus, nodeStatus } from "./network.ts";

const MINUTE = 60_000;
/** Of a test, on a machine that has other work. */
const LIMIT_MS = 2 * MINUTE;
const NOT_CONNECTED = 5;
const VPS4 = "203.0.113.10";
/** Where the kernel has no WireGuard: ours under another name, or the one on PATH. */
const USERSPACE = carried === null ? "wireguard-go" : "/usr/local/bin/other-wireguard";
/** util/osrouter in its source, linux: the same preferences as ours, another mark, and a table of its own. */
const TAILSCALE = [4, 6].flatMap((family) => [
  `ip -${family} rule add pref 5210 fwmark 0x80000/0xff0000 lookup main`,
  `ip -${family} rule add pref 5230 fwmark 0x80000/0xff0000 lookup default`,
  `ip -${family} rule add pref 5250 fwmark 0x80000/0xff0000 unreachable`,
  `ip -${family} rule add pref 5270 lookup 52`,
]);
const TAILSCALE_UP = [
  "ip tuntap add dev tailscale0 mode tun",
  "ip addr add 100.101.102.103/32 dev tailscale0",
  "ip link set tailscale0 up",
  ...TAILSCALE,
  "ip route add 100.100.100.100 dev tailscale0 table 52",
  "ip route add throw 127.0.0.0/8 table 52",
];
const TAILSCALE_DOWN = [
  "ip link del tailscale0",
  ...TAILSCALE.map((line) => line.replace(" rule add ", " rule del ")),
  "ip route flush table 52",
];

let lab: Lab;
let laptop: LabHost;
let home: LabHost;
/** Private keys of the other VPN, by host. */
const keys = new Map<string, string>();

beforeAll(async () => {
  lab = await startClientLab();
  [laptop, home] = [lab.host("laptop"), lab.host("home-pc")];
  await startNetwork(lab);
  await higgsOrThrow(laptop, "client", "up");
  await higgsOrThrow(laptop, "client", "down");
  await otherVpn();
}, MINUTE);
afterAll(() => lab[Symbol.asyncDispose]());

const sh = (host: LabHost, ...lines: readonly string[]): Promise<string> =>
  host.execOrThrow(["sh", "-ec", lines.join("\n")], { env: { WG_QUICK_USERSPACE_IMPLEMENTATION: USERSPACE } });

/** The VPS lends a second VPN to laptop and home PC, each with everything through it. */
async function otherVpn(): Promise<void> {
  const vps = lab.host("vps");
  for (const host of [vps, laptop, home]) {
    keys.set(host.name, (await host.execOrThrow(["wg", "genkey"])).trim());
    if (carried === null) continue;
    await host.writeFile(USERSPACE, Bun.gunzipSync(await Bun.file(carried.gzPath).bytes()));
    await sh(host, `chmod 755 ${USERSPACE}`);
  }
  const publicOf = async (host: LabHost): Promise<string> =>
    (await host.execOrThrow(["wg", "pubkey"], { stdin: `${keys.get(host.name)}\n` })).trim();
  const peers = await Promise.all(
    [laptop, home].map(
      async (host, i) => `[Peer]\nPublicKey = ${await publicOf(host)}\nAllowedIPs = 10.9.0.${i + 2}/32\n`,
    ),
  );
  await sh(
    vps,
    "mkdir -p /etc/wireguard /run/wireguard",
    `ip link add wg0 type wireguard 2>/dev/null || ${USERSPACE} wg0`,
    "ip addr add 10.9.0.1/24 dev wg0",
    "ip link set wg0 up",
    "sysctl -qw net.ipv4.ip_forward=1",
    "nft 'table ip theirs { chain out { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }'",
  );
  await vps.execOrThrow(["wg", "setconf", "wg0", "/dev/stdin"], {
    stdin: `[Interface]\nPrivateKey = ${keys.get("vps")}\nListenPort = 51999\n${peers.join("")}`,
  });
  for (const [i, host] of [laptop, home].entries()) {
    await sh(host, "mkdir -p /etc/wireguard");
    await host.writeFile(
      "/etc/wireguard/wg0.conf",
      `[Interface]\nPrivateKey = ${keys.get(host.name)}\nAddress = 10.9.0.${i + 2}/24\n[Peer]\nPublicKey = ${await publicOf(vps)}\nEndpoint = ${VPS4}:51999\nAllowedIPs = 0.0.0.0/0\n`,
    );
  }
}

/** All that is not higgs's, as others' programs see it. */
async function others(host: LabHost): Promise<string> {
  const tables = (await host.execOrThrow(["nft", "-s", "list", "ruleset"])).split(/^(?=table )/m);
  const theirs = tables.filter((table) => !/^table \w+ higgs/.test(table)).join("");
  const lines = await sh(
    host,
    "ip -4 rule; ip -6 rule",
    "ip -4 route show table all; ip -6 route show table all",
    "iptables-save | sed '/^#/d'; ip6tables-save | sed '/^#/d'",
    "for link in $(wg show interfaces); do case $link in higgs*) ;; *) wg showconf $link;; esac; done",
  );
  const isOurs = /lookup 5270|table 5270|0x68000|uidrange|dev higgs|^521\d|^522\d/;
  return (
    theirs +
    lines
      .split("\n")
      .filter((line) => !isOurs.test(line))
      .join("\n")
      .replaceAll(/ (expires|age|used) \S+/g, "")
  );
}

async function expectRefused(named: string): Promise<void> {
  const before = await snapshot(laptop, { without: ["etc and run", "processes"] });
  const up = await higgs(laptop, "client", "up");
  expect(up.stderr).toContain(named);
  expect(up.code).toBe(NOT_CONNECTED);
  await higgs(laptop, "client", "down");
  expect(await snapshot(laptop, { without: ["etc and run", "processes"] })).toBe(before);
}

describe("a client", () => {
  test(
    "goes over wg-quick's full tunnel that was up before, and leaves it alone",
    async () => {
      await sh(laptop, "wg-quick up wg0");
      expect(await page(laptop, PAGE4)).toBe(VPS4);
      const before = await others(laptop);
      await higgsOrThrow(laptop, "client", "up");
      await until(async () => (await page(laptop, PAGE4)) === HOME4, {
        timeoutMs: 20_000,
        what: "the page by the home",
      });
      expect(await others(laptop)).toBe(before);
      await higgsOrThrow(laptop, "client", "down");
      expect(await others(laptop)).toBe(before);
      expect(await page(laptop, PAGE4)).toBe(VPS4);
      await sh(laptop, "wg-quick down wg0");
    },
    LIMIT_MS,
  );

  test(
    "that is connected says whose rule comes before its own, lets nothing out meanwhile, and goes on when it is gone",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await untilBrowses(laptop);
      await using sniffer = await lab
        .host("cafe-router")
        .sniff("lan", "src host 192.168.7.2 and dst host 203.0.113.80");
      await sh(laptop, "wg-quick up wg0");
      const entry = await until(
        async () => (await clientStatus(laptop)).health.find(({ code }) => code === "rule-before-ours"),
        { what: "the health entry" },
      );
      expect(entry.text).toContain("sends everything into wg0");
      expect(await page(laptop, PAGE4)).toBe("");
      expect((await higgs(laptop, "client", "status")).stdout).toContain("sudo wg-quick down wg0");
      await sh(laptop, "wg-quick down wg0");
      await untilBrowses(laptop);
      await until(async () => (await clientStatus(laptop)).health.length === 0, { what: "health" });
      expect(sniffer.packets()).toEqual([]);
      await higgsOrThrow(laptop, "client", "down");
      await page(laptop, PAGE4); // and so the sniffer sees what passes outside
      await until(() => sniffer.packets().length > 0, { what: "a packet outside" });
    },
    LIMIT_MS,
  );

  test(
    "does not begin while another's rule takes everything, names it, and touches nothing",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await sh(laptop, "wg-quick up wg0"); // its rules come before those that are there
      await higgsOrThrow(laptop, "client", "down");
      await expectRefused("into wg0");
      await sh(laptop, "wg-quick down wg0");
      await sh(laptop, "ip route add default via 192.168.7.1 table 200", "ip rule add pref 100 lookup 200");
      await expectRefused("(preference 100, table 200) sends everything into eth0");
      await sh(laptop, "ip rule del pref 100", "ip route flush table 200");
    },
    LIMIT_MS,
  );

  test(
    "lives beside Tailscale's rules of the same preferences, and not with its exit node",
    async () => {
      await sh(laptop, ...TAILSCALE_UP);
      const before = await others(laptop);
      await higgsOrThrow(laptop, "client", "up");
      await untilBrowses(laptop);
      expect(await others(laptop)).toBe(before);
      await higgsOrThrow(laptop, "client", "down");
      expect(await others(laptop)).toBe(before);
      await sh(laptop, "ip route add default dev tailscale0 table 52");
      await expectRefused("(preference 5270, table 52) sends everything into tailscale0");
      await sh(laptop, ...TAILSCALE_DOWN);
    },
    LIMIT_MS,
  );

  test(
    "and a node work where another VPN has the very range of their network",
    async () => {
      const range =
        /10\.\d+\.\d+\.\d+\/\d+/.exec(await laptop.readFile("/var/lib/higgs/client/enrolment.json"))?.[0] ?? "";
      const inside = range.replace(/\.\d+\/\d+$/, ".77");
      for (const host of [laptop, home]) {
        await sh(host, "ip tuntap add dev tun9 mode tun", `ip addr add ${inside}/16 dev tun9`, "ip link set tun9 up");
      }
      const before = await Promise.all([others(laptop), others(home)]);
      await higgsOrThrow(laptop, "client", "up");
      await untilBrowses(laptop);
      expect((await higgs(laptop, "doctor")).stdout).toContain("by tun9");
      await higgsOrThrow(laptop, "client", "down");
      expect(await Promise.all([others(laptop), others(home)])).toEqual(before);
      for (const host of [laptop, home]) await sh(host, "ip link del tun9");
    },
    LIMIT_MS,
  );
});

test(
  "an exit whose home sends everything into another VPN is closed with the cause and what mends it, and opens again",
  async () => {
    const before = await others(home);
    await sh(home, "wg-quick up wg0");
    const entry = await until(
      async () => (await nodeStatus(home)).health.find(({ text }) => text.includes("into wg0")),
      { timeoutMs: 25_000, what: "the cause" },
    );
    expect(entry as unknown as { remedy: string }).toMatchObject({ code: "exit-not-ready" });
    expect((entry as unknown as { remedy: string }).remedy).toContain("sudo wg-quick down wg0");
    expect((await nodeStatus(home)).exit.ready).toBe(false);
    await sh(home, "wg-quick down wg0");
    await until(async () => (await nodeStatus(home)).exit.ready, { timeoutMs: 25_000, what: "the exit" });
    expect(await others(home)).toBe(before);
  },
  LIMIT_MS,
);

test(
  "a node does not start where another VPN has the very range of its network, and touches nothing",
  async () => {
    await higgsOrThrow(home, "node", "down");
    const range = /10\.\d+\.0\.0\/16/.exec(await home.readFile("/var/lib/higgs/node/enrolment.json"))?.[0] ?? "";
    await sh(home, "ip tuntap add dev tun9 mode tun", `ip addr add ${range.replace(".0.0/", ".0.77/")} dev tun9`);
    await sh(home, "ip link set tun9 up");
    const before = await snapshot(home);
    const node = await home.spawn([HIGGS, "node", ...DNS_FLAGS]);
    expect(await node.waitForLine(/^error: /)).toContain(`tun9 has the very range of its network, ${range}`);
    expect(await node.exited).not.toBe(0);
    expect(await snapshot(home)).toBe(before);
    await sh(home, "ip link del tun9");
  },
  LIMIT_MS,
);
