// What tests of pulled cables share: a laptop between two networks, pings and a transfer through the tunnel, and the cables.
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet, type SmallInternetOptions } from "../../src/lab/small-internet.ts";
import type { HostSpec, Topology } from "../../src/lab/topology.ts";
import { higgs } from "./client-lab.ts";
import { until } from "./harness.ts";

export const WEB4 = "203.0.113.80";
/** In the home, and reached through the tunnel where the exit's owner opened it: no router of the home's line has a part in that. */
export const NAS4 = "192.168.1.20";
/** With IPv6 on both sides no NAT would be in the way. */
export const IPV4_ONLY: SmallInternetOptions = { homeIpv6: false, cafeIpv6: false };

/** The small internet, and beside the café a mobile network that the laptop has a card for, without an address yet. */
export function withMobile(base: Topology = smallInternet(IPV4_ONLY)): Topology {
  const renumbered = (text: string): string =>
    text.replace("203.0.113.66", "203.0.113.99").replace(/^192\.168\.7\./, "192.168.99.");
  const hosts = base.hosts.flatMap((host): HostSpec[] => {
    if (host.name === "laptop")
      return [{ ...host, interfaces: [...host.interfaces, { name: "lte0", segment: "mobile" }] }];
    if (host.name === "home-nas") return [{ ...host, services: [{ kind: "web", port: 80 }] }];
    if (host.name !== "cafe-router") return [host];
    const interfaces = host.interfaces.map((link) => ({
      ...link,
      segment: link.name === "lan" ? "mobile" : link.segment,
      ...(link.ipv4 === undefined ? {} : { ipv4: renumbered(link.ipv4) }),
    }));
    return [host, { ...host, name: "mobile-router", interfaces }];
  });
  return { segments: [...base.segments, { name: "mobile" }], hosts };
}

export interface Path {
  readonly kind: string;
  readonly endpoint: string | null;
  readonly reason: string;
}

export async function pathOf(host: LabHost): Promise<Path | null> {
  const { stdout } = await higgs(host, "client", "status", "--json");
  return stdout.startsWith("{") ? (JSON.parse(stdout) as { path: Path | null }).path : null;
}

export async function untilPath(host: LabHost, kind: string, timeoutMs: number): Promise<void> {
  await until(async () => (await pathOf(host))?.kind === kind, { timeoutMs, everyMs: 100, what: `the path ${kind}` });
}

/** On that path, with no move of it under way and the router's answer about a port: from now on the machine's rules stay as they are. */
export async function untilSettled(host: LabHost, kind: string): Promise<void> {
  await until(
    async () => {
      const { stdout } = await higgs(host, "client", "status", "--json");
      if (!stdout.startsWith("{")) return false;
      const status = JSON.parse(stdout) as { path: Path | null; portMapping: { state: string } };
      if (status.path?.kind !== kind || status.portMapping.state === "asking") return false;
      return !(await host.readFile("/var/lib/higgs/client/journal.json")).includes("redirect-table");
    },
    { timeoutMs: 40_000, everyMs: 100, what: `a client at rest on the path ${kind}` },
  );
}

export interface Pings {
  readonly sent: number;
  readonly received: number;
  /** Of those sent before the last one that was answered. */
  readonly lost: number;
  /** The longest time between two replies. */
  readonly gapS: number;
}

export interface Pinging {
  replies(): number;
  stop(): Promise<Pings>;
}

/** Ten a second through the tunnel, if nothing else is said. Resolves after the first reply; `stop` ends it as a person would, so that it counts. */
export async function startPinging(
  host: LabHost,
  { everyS = 0.1 }: { readonly everyS?: number } = {},
): Promise<Pinging> {
  const times: number[] = [];
  const ping = await host.spawn(["ping", "-n", "-i", String(everyS), "-W", "1", WEB4], {
    onLine: (line) => void (line.includes("bytes from") && times.push(performance.now())),
  });
  await ping.waitForLine(/bytes from/);
  return {
    replies: () => times.length,
    async stop() {
      ping.kill("SIGINT");
      await ping.exited;
      const [, sent, received] = /(\d+) packets transmitted, (\d+) received/.exec(ping.lines.join("\n")) ?? [];
      const seqs = [...ping.lines.join("\n").matchAll(/icmp_seq=(\d+) ttl/g)].map((match) => Number(match[1]));
      const lost = Math.max(0, ...seqs) - new Set(seqs).size;
      const gaps = times.slice(1).map((time, i) => time - (times[i] ?? time));
      return { sent: Number(sent), received: Number(received), lost, gapS: Math.max(0, ...gaps) / 1000 };
    },
  };
}

/** Resolves with the number of bytes that came, when it is over. */
export function transfer(host: LabHost, bytes: number, bytesPerS: number, from = WEB4): Promise<number> {
  const argv = [
    "curl",
    "-sS",
    "--max-time",
    "60",
    "--limit-rate",
    String(bytesPerS),
    `http://${from}/bytes?n=${bytes}`,
  ];
  return host.execOrThrow(["sh", "-c", `${argv.map((word) => `'${word}'`).join(" ")} | wc -c`]).then(Number);
}

/** A router that passes no UDP any more, in either direction. */
export async function cutUdp(router: LabHost): Promise<void> {
  await router.writeFile(
    "/root/cut.nft",
    "table ip cut {\n  chain forward {\n    type filter hook forward priority filter - 10;\n    meta l4proto udp drop\n  }\n}\n",
  );
  await router.execOrThrow(["nft", "-f", "/root/cut.nft"]);
}

export async function mendUdp(router: LabHost): Promise<void> {
  await router.execOrThrow(["nft", "delete", "table", "ip", "cut"]);
}

export interface Pulled {
  readonly pings: Pings;
  /** Of the transfer that ran across. */
  readonly bytes: number;
}

/** More than a kernel's buffers hold: some of it is under way when the cable is pulled. */
export const TRANSFER_BYTES = 24_000_000;
const BYTES_PER_S = 6_000_000;

/** Pulls a cable under ten pings a second and a transfer, and waits until pings are answered again, and the transfer is over. */
export async function pull(lab: Lab, cable: () => Promise<void>): Promise<Pulled> {
  const laptop = lab.host("laptop");
  const pinging = await startPinging(laptop);
  // From within the home: a connection of the exit's own to the web dies with the address that the home's line had.
  const transferring = transfer(laptop, TRANSFER_BYTES, BYTES_PER_S, NAS4);
  await until(() => pinging.replies() >= 15, { what: "fifteen replies" });
  await cable();
  const replies = pinging.replies();
  await until(() => pinging.replies() >= replies + 25, {
    timeoutMs: 30_000,
    what: "replies after the cable was pulled",
  });
  const bytes = await transferring;
  return { pings: await pinging.stop(), bytes };
}
