// What leaks when somebody takes a connected client's rules away: counted by kind in a stream of every packet that could, until they are back.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { Packet } from "../../src/lab/pcap.ts";
import type { Sniffer } from "../../src/lab/sniffer.ts";
import { decodeStun } from "../../src/proto/stun.ts";
import { looksLikeWireGuard } from "../../src/proto/wireguard-packet.ts";
import { untilSettled } from "./cables.ts";
import { higgsOrThrow, leaksOf, pidOf, startNetwork, untilBrowses, wireGuardPort } from "./client-lab.ts";
import { debianRoot, NETWORK_SETUP } from "./debian-root.ts";
import { inDebian, installDebian } from "./dhcp-scene.ts";
import { until } from "./harness.ts";
import { type Probe, probesTo } from "./state-probes.ts";
import { type OrderStream, startStateLab, streamOrders } from "./state-scene.ts";

const MINUTE = 60_000;
/** The packages of a Debian are fetched and unpacked once. */
const START_MS = 5 * MINUTE;
const WEB = ["203.0.113.80", "2001:db8:80::80"] as const;
/** Each of the twelve kinds a hundred times a second. */
const EVERY_MS = 10;
/** Generous on a busy machine; the figure that was seen is printed. */
const MENDED_MS = 10_000;
/** Of the stream, after everything is back: nothing of them may be seen. */
const ROUNDS_AFTER = 30;

interface Deed {
  readonly name: string;
  readonly commands: readonly string[];
  /** By Debian's own programs. */
  readonly inDebian?: boolean;
}

const FIREWALLD = "table inet firewalld { chain filter_INPUT { type filter hook input priority 10; }; }";
const DEEDS: readonly Deed[] = [
  { name: "nft flush ruleset", commands: ["nft flush ruleset"] },
  {
    name: "nftables.service reloaded with Debian's own file",
    commands: [
      "printf 'flush ruleset\ntable inet filter {\n chain output { type filter hook output priority 0; }\n}\n' | nft -f -",
    ],
  },
  {
    name: "firewalld's table loaded, taken away and loaded again",
    commands: [`nft '${FIREWALLD}'`, "nft delete table inet firewalld", `nft '${FIREWALLD}'`],
  },
  { name: "ufw enabled", commands: ["ufw --force enable"], inDebian: true },
  { name: "ufw reloaded", commands: ["ufw reload"], inDebian: true },
  { name: "ufw disabled", commands: ["ufw disable"], inDebian: true },
  {
    name: "ip rule flush",
    commands: ["ip -4 rule flush", "ip -4 rule add pref 32766 lookup main", "ip -4 rule add pref 32767 lookup default"],
  },
  { name: "ip -6 rule flush", commands: ["ip -6 rule flush", "ip -6 rule add pref 32766 lookup main"] },
  { name: "ip route flush table 5270", commands: ["ip -4 route flush table 5270"] },
  { name: "ip -6 route flush table 5270", commands: ["ip -6 route flush table 5270"] },
  {
    name: "rules of firewall and routing at once",
    commands: ["nft flush ruleset; ip -4 rule del pref 5270; ip -6 rule del pref 5270"],
  },
  { name: "wg set fwmark 0", commands: ["wg set higgs0 fwmark 0"] },
  { name: "wg set listen-port", commands: ["wg set higgs0 listen-port 40404"] },
  { name: "the peer removed", commands: ["wg set higgs0 peer $(wg show higgs0 peers) remove"] },
  {
    name: "the peer's prefixes taken away",
    commands: ["wg set higgs0 peer $(wg show higgs0 peers) allowed-ips 192.0.2.1/32"],
  },
];

let lab: Lab;
let laptop: LabHost;
let probes: readonly Probe[];
let stream: OrderStream;
let sniffer: Sniffer;
let wanted: string;

beforeAll(async () => {
  lab = await startStateLab({ visible: [await debianRoot(NETWORK_SETUP)] });
  laptop = lab.host("laptop");
  await Promise.all([startNetwork(lab), installDebian(laptop)]);
  await higgsOrThrow(laptop, "client", "up");
  await untilBrowses(laptop);
  probes = WEB.flatMap((to) => [...probesTo(to), ...probesTo(to, { device: "eth0" })]);
  stream = await streamOrders(
    laptop,
    probes.map(({ order }) => order),
    { everyMs: EVERY_MS },
  );
  await lab
    .host("cafe-router")
    .execOrThrow(["sysctl", "-qw", "net.ipv4.conf.lan.proxy_arp=1", "net.ipv4.neigh.lan.proxy_delay=0"]); // it answers for the whole world
  sniffer = await lab.host("cafe-router").sniff("lan", await leaksOf(laptop, await wireGuardPort(laptop)));
}, START_MS);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

/** All that is the client's and what of WireGuard tells nobody of a change, without what only the moment decides. */
async function picture(): Promise<string> {
  const script = [
    "nft -s list tables | grep higgs | sort; nft -s list table inet higgs_client; nft -s list table inet higgs_client_demux",
    "for f in -4 -6; do ip $f rule; ip $f route show table 5270; done",
    "wg show higgs0 fwmark; wg show higgs0 listen-port; wg show higgs0 allowed-ips",
  ].join("; ");
  return (await laptop.exec(["sh", "-c", script])).stdout;
}

/** The client's own: encrypted, from a port that is not its own just now, or the checks of its paths. */
function isOurOwn({ text, ip }: Packet): boolean {
  if (!text.startsWith("udp")) return false;
  const payload = ip.subarray((ip[0] ?? 0) >> 4 === 4 ? 28 : 48);
  return looksLikeWireGuard(payload, 0, payload.length) || decodeStun(payload) !== null;
}

/** Since then, as the kernel's clock has it: by kind, and within which time. */
function leaked(sinceMs: number): string {
  const all = sniffer.packets().filter(({ timeMs }) => timeMs > sinceMs);
  const packets = all.filter((packet) => !isOurOwn(packet));
  const counts = new Map<string, number>();
  for (const packet of packets) {
    const kind = probes.find((probe) => probe.matches(packet))?.order.id ?? packet.text;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  const times = packets.map(({ timeMs }) => timeMs);
  const own =
    all.length === packets.length ? "" : `; and ${all.length - packets.length} packets of its own from another port`;
  if (packets.length === 0) return `nothing${own}`;
  const kinds = [...counts].map(([kind, count]) => `${kind}: ${count}`).join(", ");
  return `${packets.length} within ${Math.round(Math.max(...times) - Math.min(...times))} ms (${kinds})${own}`;
}

async function rounds(count: number): Promise<void> {
  const from = stream.rounds();
  await until(() => stream.rounds() >= from + count, { timeoutMs: 30_000, what: `${count} rounds of probes` });
}

async function done({ commands, inDebian: debian }: Omit<Deed, "name">): Promise<void> {
  const argv = ["sh", "-c", commands.join(" && ")];
  await laptop.execOrThrow(debian === true ? inDebian(argv) : argv);
}

test(
  "nothing of the stream passes beside a connected tunnel",
  async () => {
    const from = Date.now();
    await rounds(ROUNDS_AFTER);
    expect(leaked(from)).toBe("nothing");
  },
  MINUTE,
);

test(
  "canary: while nobody is awake to put the rules back, every kind of the stream is seen",
  async () => {
    await untilSettled(laptop, "direct"); // one that is being moved has rules of the moment
    wanted = await until(
      async () => {
        const first = await picture();
        await rounds(ROUNDS_AFTER);
        return (await picture()) === first ? first : null;
      },
      { timeoutMs: 30_000, what: "a machine at rest" },
    );
    const signal = async (name: "STOP" | "CONT"): Promise<void> => {
      await laptop.execOrThrow(["kill", `-${name}`, String(await pidOf(laptop, "client"))]);
    };
    await signal("STOP");
    try {
      await done({ commands: ["nft flush ruleset; ip -4 rule del pref 5270; ip -6 rule del pref 5270"] });
      await rounds(20);
    } finally {
      await signal("CONT");
    }
    const seen = sniffer.packets();
    const unseen = probes.filter((probe) => !seen.some((packet) => probe.matches(packet))).map(({ order }) => order.id);
    expect(unseen).toEqual([]);
  },
  MINUTE,
);

describe("what somebody took away is back, and nothing passes any more", () => {
  for (const deed of DEEDS) {
    test(
      deed.name,
      async () => {
        await until(async () => (await picture()) === wanted, { what: "a machine at rest" });
        const from = Date.now();
        await done(deed);
        const at = performance.now();
        let now = await picture();
        while (now !== wanted && performance.now() - at < MENDED_MS) now = await picture();
        const ms = Math.round(performance.now() - at);
        const back = Date.now();
        await rounds(ROUNDS_AFTER);
        console.log(`${deed.name}: back after ${ms} ms at most; leaked ${leaked(from)}`);
        expect(now).toBe(wanted);
        expect(leaked(back)).toBe("nothing");
      },
      MINUTE,
    );
  }
});
