// A laptop with a container in a café, and what leaves it: every probe's verdict by sniffers on the café's router and at home.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab, LabOptions } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import type { Packet } from "../../src/lab/pcap.ts";
import type { Sniffer } from "../../src/lab/sniffer.ts";
import { SERVICE_USER } from "../../src/net/systemd/units.ts";
import { daemonsHaveUser } from "./daemon-user.ts";
import { bundleForHosts } from "./bundle.ts";
import { startHiggsLab, until } from "./harness.ts";
import { type Order, type Probe, probesOf, type Row, type Verdict } from "./state-probes.ts";

const PROGRAM = ["/usr/local/bin/bun", "/usr/local/bin/state-probe.js"] as const;
const ANOTHER_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] as const;
const HIGGS_USER = ["setpriv", "--reuid", SERVICE_USER, "--regid", SERVICE_USER, "--clear-groups"] as const;
export const CONTAINER = ["ip", "netns", "exec", "box"] as const;
/** Long enough for an answer from the internet through the tunnel, on a busy machine too. */
const WAIT_MS = 2000;

export async function startStateLab(options: Pick<LabOptions, "visible"> = {}): Promise<Lab> {
  const dir = mkdtempSync(join(tmpdir(), "higgs-state-probe-"));
  try {
    const path = join(dir, "state-probe.js");
    const program = JSON.stringify(join(import.meta.dir, "state-probe.program.ts"));
    await Bun.write(path, await bundleForHosts("state-probe-entry.ts", `await import(${program});\n`));
    return await startHiggsLab(smallInternet(), {
      ...options,
      programs: { bun: process.execPath, "state-probe.js": path },
    });
  } finally {
    rmSync(dir, { recursive: true }); // the hosts have it on their disks
  }
}

/** A bridge as Docker makes it, one container, and a LAN with private IPv6 addresses beside the provider's. */
export async function furnish(lab: Lab): Promise<void> {
  const run = async (name: string, ...commands: readonly string[]): Promise<void> => {
    for (const command of commands) await lab.host(name).execOrThrow(command.split(" "));
  };
  await run("cafe-router", "ip -6 addr add fd66::1/64 dev lan nodad");
  await run(
    "laptop",
    "ip -6 addr add fd66::2/64 dev eth0 nodad",
    "ip link add docker0 type bridge",
    "ip addr add 172.17.0.1/16 dev docker0",
    "ip -6 addr add fd17::1/64 dev docker0 nodad",
    "ip netns add box",
    "ip link add veth0 type veth peer name eth0 netns box",
    "ip link set veth0 master docker0 up",
    "ip link set docker0 up",
    "ip netns exec box ip link set lo up",
    "ip netns exec box ip link set eth0 up",
    "ip netns exec box ip addr add 172.17.0.2/16 dev eth0",
    "ip netns exec box ip -6 addr add fd17::2/64 dev eth0 nodad",
    "ip netns exec box ip route add default via 172.17.0.1",
    "ip netns exec box ip -6 route add default via fd17::1",
    "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
  );
  const masquerade = `table inet docker {
    chain post {
      type nat hook postrouting priority 100
      ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
      ip6 saddr fd17::/64 oifname != "docker0" masquerade
    }
  }`;
  await lab.host("laptop").execOrThrow(["nft", "-f", "-"], { stdin: masquerade });
}

let runs = 0;

/** Sends a probe of each class now, and says of each what became of it. */
export async function verdictsNow(lab: Lab): Promise<ReadonlyMap<Probe, Verdict>> {
  return await verdictsOf(lab, probesOf(runs++));
}

export async function verdictsOf(lab: Lab, probes: readonly Probe[]): Promise<ReadonlyMap<Probe, Verdict>> {
  await using beside = await lab.host("cafe-router").sniff("lan");
  await using home = await lab.host("home-pc").sniff("eth0");
  const answered = new Set<string>();
  const laptop = lab.host("laptop");
  await Promise.all(
    (
      [
        ["root", []],
        ["higgs", daemonsHaveUser() ? HIGGS_USER : []],
        ["another user", ANOTHER_USER],
        ["container", CONTAINER],
      ] as const
    ).map(async ([as, prefix]) => {
      const orders = probes.filter((probe) => probe.as === as).map((probe) => probe.order);
      for (const id of await sendOrders(laptop, orders, { prefix })) answered.add(id);
    }),
  );
  await caughtUp(beside, lab.host("cafe-router"), "192.168.7.2");
  await caughtUp(home, lab.host("home-router"), "192.168.1.10");
  const seen = beside.packets();
  const throughHome = home.packets();
  return new Map(
    probes.map((probe) => {
      if (seen.some((packet) => probe.matches(packet))) return [probe, "open"];
      if (throughHome.some((packet) => probe.matches(packet)) || answered.has(probe.order.id)) return [probe, "tunnel"];
      return [probe, "closed"];
    }),
  );
}

/** Resolves when the sniffer has told of everything up to now: an echo request after all the rest was seen. */
export async function caughtUp(sniffer: Sniffer, from: LabHost, to: string): Promise<void> {
  const length = 1200 + (markers++ % 200);
  await from.exec(["ping", "-n", "-c", "1", "-W", "1", "-s", String(length), to]);
  const isSeen = (packet: Packet): boolean =>
    packet.ip.length === length + 28 && packet.text.includes(`> ${to} type 8`);
  await until(() => sniffer.packets().some(isSeen), { what: "the sniffer's last packet" });
}
let markers = 0;

/** The ids of those that were answered. */
export async function sendOrders(
  host: LabHost,
  orders: readonly Order[],
  { prefix = [] }: { readonly prefix?: readonly string[] } = {},
): Promise<readonly string[]> {
  if (orders.length === 0) return [];
  const order = JSON.stringify({ orders, waitMs: WAIT_MS });
  const said = JSON.parse(await host.execOrThrow([...prefix, ...PROGRAM, order])) as {
    answered: string[];
    errors: string[];
  };
  if (said.errors.length > 0) throw new Error(`Cannot send: ${said.errors.join("; ")}`);
  return said.answered;
}

export interface OrderStream extends AsyncDisposable {
  /** How many rounds were sent, to the ten. */
  rounds(): number;
}

/** All of them again and again until it is disposed of. Resolves after the first round. */
export async function streamOrders(
  host: LabHost,
  orders: readonly Order[],
  { everyMs }: { readonly everyMs: number },
): Promise<OrderStream> {
  const child = await host.spawn([...PROGRAM, JSON.stringify({ orders, everyMs })]);
  await child.waitForLine(/^round /);
  return {
    rounds: () => child.lines.length * 10,
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

/** Sentences, none where the row is as the document has it. */
export function differences(row: Row, verdicts: ReadonlyMap<Probe, Verdict>): readonly string[] {
  return [...verdicts].flatMap(([{ className, order }, verdict]) => {
    const wanted = row.cells.get(className);
    return wanted === verdict ? [] : [`${order.id} is ${verdict}, and the document says ${wanted ?? "nothing"}`];
  });
}
