// What a hostile network or program does to a connected laptop to have its traffic beside the tunnel: each first without higgs, where it works.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { HOME4, HOME6, higgs, higgsOrThrow, PAGE4, PAGE6, page, startNetwork, untilBrowses } from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";
import { leaveOnly, mechanismAsked } from "./mechanisms.ts";
import { type Order, probesTo } from "./state-probes.ts";
import { caughtUp, furnish, sendOrders, startStateLab, verdictsOf } from "./state-scene.ts";

const MINUTE = 60_000;
const mechanism = mechanismAsked();
const WEB4 = "203.0.113.80";
const WEB6 = "2001:db8:80::80";
let lab: Lab;
let laptop: LabHost;
let router: LabHost;
let tunnelAddress: string;

beforeAll(async () => {
  lab = await startStateLab();
  [laptop, router] = [lab.host("laptop"), lab.host("cafe-router")];
  await startNetwork(lab);
  await furnish(lab);
  await leaveOnly(laptop, mechanism);
  await client("up");
  tunnelAddress = /inet (10\.[\d.]+)/.exec(await laptop.execOrThrow(["ip", "addr", "show", "higgs0"]))?.[1] ?? "";
  await client("down");
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

const client = (...args: readonly string[]): Promise<string> => higgsOrThrow(laptop, "client", ...args);

async function on(host: LabHost, commands: readonly string[]): Promise<void> {
  for (const command of commands) await host.execOrThrow(command.split(" "));
}

/** Which ways the packets of these addresses take, as the sniffers see it. */
async function waysTo(addresses: readonly string[]): Promise<readonly string[]> {
  const verdicts = await verdictsOf(
    lab,
    addresses.flatMap((to) => probesTo(to)),
  );
  return [...verdicts].map(([{ order }, verdict]) => `${order.id}: ${verdict}`);
}
const all = (addresses: readonly string[], way: string): readonly string[] =>
  addresses.flatMap((to) => ["udp", "tcp", "icmp"].map((kind) => `${kind} to ${to}: ${way}`));

interface Attack {
  readonly what: string;
  readonly begin: readonly string[];
  readonly end: readonly string[];
  readonly atRouter?: readonly [begin: readonly string[], end: readonly string[]];
  readonly targets: readonly string[];
  /** What becomes of it; "tunnel" goes on working. */
  readonly becomes: "tunnel" | "closed";
  readonly flags: readonly string[];
}

const VIA4 = "via 192.168.7.1 dev eth0";
const VIA6 = "via fd66::1 dev eth0";
const VISION = [
  `${WEB4}/32 ${VIA4}`,
  `0.0.0.0/1 ${VIA4}`,
  `128.0.0.0/1 ${VIA4}`,
  `${WEB6}/128 ${VIA6}`,
  `::/1 ${VIA6}`,
  `8000::/1 ${VIA6}`,
];
const ATTACKS: readonly Attack[] = [
  {
    what: "more specific routes, as the café's DHCP hands them out (TunnelVision)",
    begin: VISION.map((route) => `ip route add ${route}`),
    end: VISION.map((route) => `ip route del ${route}`),
    targets: [WEB4, WEB6],
    becomes: "tunnel",
    flags: [],
  },
  {
    what: "a public prefix as the LAN's own (LocalNet), though the LAN is allowed",
    begin: ["ip addr add 198.51.100.2/24 dev eth0", "ip -6 addr add 2001:db8:5151::2/64 dev eth0 nodad"],
    end: ["ip addr del 198.51.100.2/24 dev eth0", "ip -6 addr del 2001:db8:5151::2/64 dev eth0"],
    atRouter: [
      ["ip addr add 198.51.100.1/24 dev lan", "ip -6 addr add 2001:db8:5151::1/64 dev lan nodad"],
      ["ip addr del 198.51.100.1/24 dev lan", "ip -6 addr del 2001:db8:5151::1/64 dev lan"],
    ],
    targets: ["198.51.100.1", "2001:db8:5151::1"],
    becomes: "tunnel",
    flags: ["--lan"],
  },
];

for (const { what, begin, end, atRouter = [[], []], targets, becomes, flags } of ATTACKS) {
  test(
    `${what}: ${becomes}`,
    async () => {
      await on(router, atRouter[0]);
      await on(laptop, begin);
      try {
        expect(await waysTo(targets)).toEqual(all(targets, "open")); // positive control
        await client("up", ...(flags.length === 0 ? ["--no-lan"] : flags));
        expect(await waysTo(targets)).toEqual(all(targets, becomes));
        expect(await page(laptop, PAGE4)).toBe(HOME4);
        expect(await page(laptop, PAGE6)).toBe(HOME6);
      } finally {
        await client("down");
        await on(laptop, end);
        await on(router, atRouter[1]);
      }
    },
    MINUTE,
  );
}

test(
  "strict reverse path filtering keeps no answer from the tunnel",
  async () => {
    const set = (value: number) =>
      on(laptop, [`sysctl -qw net.ipv4.conf.all.rp_filter=${value} net.ipv4.conf.eth0.rp_filter=${value}`]);
    await set(1);
    try {
      await client("up");
      await untilBrowses(laptop);
      expect((await higgs(laptop, "client", "status")).code).toBe(0);
    } finally {
      await client("down");
      await set(0);
    }
  },
  MINUTE,
);

describe("what is sent to the tunnel's address on the LAN", () => {
  /** Whether the laptop tells the LAN that it has the address, and what it says to a SYN for it (CVE-2019-14899). */
  async function asked(): Promise<{ readonly arp: boolean; readonly answers: readonly string[] }> {
    await router.exec(["ip", "route", "del", `${tunnelAddress}/32`]);
    await on(router, ["ip neigh flush dev lan", `ip route add ${tunnelAddress}/32 dev lan`]);
    await router.exec(["ping", "-n", "-c", "2", "-W", "1", "-i", "0.3", tunnelAddress]);
    const neighbour = await router.execOrThrow(["ip", "neigh", "show", tunnelAddress, "dev", "lan"]);
    await on(router, [`ip route replace ${tunnelAddress}/32 via 192.168.7.2`]);
    await using sniffer = await router.sniff("lan", `src host ${tunnelAddress}`);
    const orders: Order[] = [22, 80, 40_000].map((port) => ({ id: `${port}`, kind: "tcp", to: tunnelAddress, port }));
    await sendOrders(router, orders);
    await on(router, [`ip route del ${tunnelAddress}/32`]);
    return {
      arp: / lladdr /.test(neighbour),
      answers: [...new Set(sniffer.packets().map((packet) => packet.text.split(" ")[0] ?? ""))],
    };
  }

  test(
    "is answered without higgs, and neither ARP nor SYN with it",
    async () => {
      await on(laptop, [`ip addr add ${tunnelAddress}/32 dev lo`]);
      expect(await asked()).toEqual({ arp: true, answers: ["tcp"] }); // positive control
      await on(laptop, [`ip addr del ${tunnelAddress}/32 dev lo`]);
      await client("up");
      try {
        expect(await asked()).toEqual({ arp: false, answers: [] });
      } finally {
        await client("down");
      }
    },
    MINUTE,
  );
});

describe("a program that writes frames to the interface itself (AF_PACKET)", () => {
  /** Whether a UDP packet to the web, in an Ethernet frame to the router, is seen on the LAN. */
  async function isSeen(port: number): Promise<boolean> {
    const mac = async (host: LabHost, name: string): Promise<string> =>
      (await host.readFile(`/sys/class/net/${name}/address`)).trim().replaceAll(":", "");
    const hex = (value: number): string => value.toString(16).padStart(4, "0");
    const ip = "4500002000004000401136d2c0a80702cb007150"; // its checksum too: a bridge may look at it
    const frame = `${await mac(router, "lan")}${await mac(laptop, "eth0")}0800${ip}${hex(5000)}${hex(port)}000c00006c65616b`;
    await using sniffer = await router.sniff("lan", `udp port ${port} or icmp`);
    await sendOrders(laptop, [{ id: "frame", kind: "udp", to: WEB4, port, frame, device: "eth0" }]);
    await caughtUp(sniffer, router, "192.168.7.2");
    return sniffer.packets().some((packet) => packet.text.startsWith("udp"));
  }

  test(
    "gets past the tunnel unless it is paranoid, where everything else goes on; iptables refuses that",
    async () => {
      const before = await snapshot(laptop);
      await client("up");
      expect(await isSeen(41_001)).toBe(true); // positive control, and what docs/security-states.md says
      if (mechanism !== "nft") {
        const refused = await higgs(laptop, "client", "lockdown", "on", "--paranoid");
        expect([refused.code, refused.stderr.includes("Cannot stop raw frames")]).toEqual([9, true]);
        await client("down");
        expect(await snapshot(laptop)).toBe(before);
        return;
      }
      await client("lockdown", "on", "--paranoid");
      expect(await isSeen(41_002)).toBe(false);
      await untilBrowses(laptop);
      expect(await page(laptop, PAGE6)).toBe(HOME6);
      await client("down");
      expect(await isSeen(41_003)).toBe(false);
      await client("lockdown", "off");
      expect(await isSeen(41_004)).toBe(true);
      const after = await snapshot(laptop);
      expect(after.replace("/var/lib/higgs/client/lockdown.json\n", "")).toBe(
        before.replace("/var/lib/higgs/client/lockdown.json\n", ""),
      );
      await until(async () => (await higgs(laptop, "client", "lockdown", "status")).code === 0);
    },
    MINUTE,
  );
});
