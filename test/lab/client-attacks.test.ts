// What a hostile network or program does to a connected laptop to have its traffic beside the tunnel: each first without higgs, where it works.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import {
  HOME4,
  HOME6,
  higgs,
  higgsOrThrow,
  PAGE4,
  PAGE6,
  page,
  pidOf,
  startNetwork,
  untilBrowses,
} from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";
import { leaveOnly, mechanismAsked, takeClientRules } from "./mechanisms.ts";
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
  const protocolFrom = (address: string, text: string): readonly string[] => {
    const [protocol = "", from = ""] = text.split(" ");
    return from.replace(/:\d+$/, "") === address ? [protocol] : [];
  };

  /** Whether the laptop tells the LAN that it has the address, and what it says to a SYN for it (CVE-2019-14899). */
  async function asked(): Promise<{ readonly arp: boolean; readonly answers: readonly string[] }> {
    await router.exec(["ip", "route", "del", `${tunnelAddress}/32`]);
    await on(router, ["ip neigh flush dev lan", `ip route add ${tunnelAddress}/32 dev lan`]);
    await router.exec(["ping", "-n", "-c", "2", "-W", "1", "-i", "0.3", tunnelAddress]);
    const neighbour = await router.execOrThrow(["ip", "neigh", "show", tunnelAddress, "dev", "lan"]);
    await on(router, [`ip route replace ${tunnelAddress}/32 via 192.168.7.2`]);
    await using sniffer = await router.sniff("lan", `src host ${tunnelAddress} or icmp`);
    const orders: Order[] = [22, 80, 40_000].map((port) => ({ id: `${port}`, kind: "tcp", to: tunnelAddress, port }));
    await sendOrders(router, orders);
    await caughtUp(sniffer, router, "192.168.7.2");
    await on(router, [`ip route del ${tunnelAddress}/32`]);
    return {
      arp: / lladdr /.test(neighbour),
      answers: [...new Set(sniffer.packets().flatMap(({ text }) => protocolFrom(tunnelAddress, text)))],
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

describe("the answers of strangers for the tunnel's address (CVE-2019-14899)", () => {
  const PROBES = 30;
  /** As long as the probes are waited for. */
  const QUIET_MS = 1000;
  /** A reset without options is 40 bytes, which WireGuard fills up to 48, and its own header and tag are 32. */
  const ENCRYPTED_RESET_BYTES = 80;

  /** What of the size of a reset leaves the laptop encrypted, while the café sends so many SYN/ACKs of the web's. */
  async function reactions(probes: number): Promise<number> {
    const header = `${await macOf(laptop, "eth0")}${await macOf(router, "lan")}0800`;
    const from = await macWithColons(laptop, "eth0");
    await using sniffer = await router.sniff("lan", `(udp and ether src ${from}) or icmp`);
    const orders = Array.from({ length: probes }, (_, i): Order => {
      const frame = `${header}${synAck({ from: WEB4, to: tunnelAddress, fromPort: 80, toPort: 40_000 + i }).toHex()}`;
      return { id: `${i}`, kind: "tcp", to: tunnelAddress, port: 0, frame, device: "lan" };
    });
    if (orders.length > 0) await sendOrders(router, orders);
    else await Bun.sleep(QUIET_MS);
    await caughtUp(sniffer, router, "192.168.7.2");
    const udp = sniffer.packets().filter(({ text }) => text.startsWith("udp"));
    const payloads = udp.map(({ ip }) => ip.subarray((ip[0] ?? 0) >> 4 === 4 ? 28 : 48));
    return payloads.filter((bytes) => bytes[0] === 4 && bytes.length === ENCRYPTED_RESET_BYTES).length;
  }

  test(
    "make it send nothing, not even encrypted; without its rules it answers each",
    async () => {
      await client("up");
      const signal = async (name: "STOP" | "CONT"): Promise<void> =>
        on(laptop, [`kill -${name} ${await pidOf(laptop, "client")}`]);
      try {
        expect({ quiet: await reactions(0), probed: await reactions(PROBES) }).toEqual({ quiet: 0, probed: 0 });
        await signal("STOP"); // or it would put them back
        await takeClientRules(laptop, mechanism);
        expect(await reactions(PROBES)).toBeGreaterThanOrEqual(PROBES); // positive control
        await signal("CONT");
      } finally {
        await client("down");
      }
    },
    MINUTE,
  );
});

const macWithColons = async (host: LabHost, name: string): Promise<string> =>
  (await host.readFile(`/sys/class/net/${name}/address`)).trim();
const macOf = async (host: LabHost, name: string): Promise<string> =>
  (await macWithColons(host, name)).replaceAll(":", "");

/** A bare IPv4 packet: 20 bytes of IP, 20 of TCP (RFC 791, RFC 9293), with both checksums. */
function synAck(flow: {
  readonly from: string;
  readonly to: string;
  readonly fromPort: number;
  readonly toPort: number;
}) {
  const packet = new Uint8Array(40);
  const view = new DataView(packet.buffer);
  packet.set([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, ...[flow.from, flow.to].join(".").split(".").map(Number)]);
  view.setUint16(20, flow.fromPort);
  view.setUint16(22, flow.toPort);
  view.setUint32(24, 1);
  view.setUint32(28, 1);
  packet.set([0x50, 0x12, 0xff, 0xff], 32); // five words; SYN and ACK; window
  view.setUint16(10, checksum(packet.subarray(0, 20)));
  const pseudo = Uint8Array.of(...packet.subarray(12, 20), 0, 6, 0, 20, ...packet.subarray(20));
  view.setUint16(36, checksum(pseudo));
  return packet;
}

/** RFC 1071, of an even number of bytes. */
function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

describe("a program that writes frames to the interface itself (AF_PACKET)", () => {
  /** Whether a UDP packet to the web, in an Ethernet frame to the router, is seen on the LAN. */
  async function isSeen(port: number): Promise<boolean> {
    const hex = (value: number): string => value.toString(16).padStart(4, "0");
    const ip = "4500002000004000401136d2c0a80702cb007150"; // its checksum too: a bridge may look at it
    const frame = `${await macOf(router, "lan")}${await macOf(laptop, "eth0")}0800${ip}${hex(5000)}${hex(port)}000c00006c65616b`;
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
