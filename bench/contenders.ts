// Who is measured against whom: pairs of a laptop and a home PC in the same two places, each with its tunnel over one kind of path.
import { existsSync, rmSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LabHost } from "../src/lab/host.ts";
import type { Lab } from "../src/lab/lab.ts";
import { cafeHost, homeHost, internetHost, type SmallInternetOptions } from "../src/lab/small-internet.ts";
import { progress } from "./lib.ts";
import { clientUp, HIGGS, inviteFor, PROCESS, processIn, startNode, startServer, untilPath } from "./network.ts";
import { PLAIN_PROCESS, plainTunnel } from "./plain-wireguard.ts";

export const PLAIN = "plain WireGuard";
export const DIRECT = "direct";
export const KERNEL = "udp-relay (kernel)";
export const PROCESS_RELAY = "udp-relay (process)";
export const WSS = "wss";
export const DEBIAN = "Debian's wireguard-go";

export interface Contender {
  readonly laptop: LabHost;
  /** Processes by their name in the table. */
  readonly watch: Readonly<Record<string, number>>;
  /** The path that a measurement is about; null for a tunnel made by hand. */
  readonly path: "direct" | "udp-relay" | "wss" | null;
}

interface HiggsPair {
  readonly server: string;
  readonly suffix: string;
  readonly n: number;
  readonly path: "direct" | "udp-relay" | "wss";
}

/** Each pair has hosts of its own: higgs's kill switch would stop a second tunnel on one machine. */
const HIGGS_PAIRS: Readonly<Record<string, HiggsPair>> = {
  [DIRECT]: { server: "vps", suffix: "direct", n: 41, path: "direct" },
  [KERNEL]: { server: "vps", suffix: "kernel", n: 42, path: "udp-relay" },
  [PROCESS_RELAY]: { server: "vps-process", suffix: "process", n: 43, path: "udp-relay" },
  [WSS]: { server: "vps", suffix: "wss", n: 44, path: "wss" },
};
const PLAIN_PAIRS: Readonly<Record<string, { readonly suffix: string; readonly n: number; readonly port: number }>> = {
  [PLAIN]: { suffix: "plain", n: 31, port: 51831 },
  [DEBIAN]: { suffix: "debian", n: 32, port: 51832 },
};

/** Without IPv6, so that every tunnel takes the same way through both NATs. */
export function contenderHosts(): SmallInternetOptions {
  const pairs = [...Object.values(HIGGS_PAIRS), ...Object.values(PLAIN_PAIRS)];
  const ipv6 = { ipv6: false };
  return {
    homeIpv6: false,
    cafeIpv6: false,
    extraHosts: [
      internetHost("vps-process", 11),
      ...pairs.flatMap(({ suffix, n }) => [cafeHost(`laptop-${suffix}`, n, ipv6), homeHost(`home-${suffix}`, n, ipv6)]),
    ],
    homeRouter: {
      forwards: Object.values(PLAIN_PAIRS).map(({ n, port }) => ({
        protocol: "udp",
        port,
        to: `192.168.1.${n}`,
        toPort: port,
      })),
    },
  };
}

/** `wanted` by name; in the order of the table. */
export async function makeContenders(
  lab: Lab,
  wanted: (name: string) => boolean,
  signal: AbortSignal,
): Promise<Record<string, Contender>> {
  const names = Object.keys(HIGGS_PAIRS).filter(wanted);
  const servers = new Set(names.map((name) => HIGGS_PAIRS[name]?.server));
  if (servers.has("vps")) await startServer(lab, signal);
  // As in a container: without CAP_NET_ADMIN the process relays, with the socket buffers that the kernel gives to anybody.
  const prefix = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
  if (servers.has("vps-process")) await startServer(lab, signal, { host: "vps-process", prefix });
  for (const server of servers) {
    if (server !== undefined) await checkRelay(lab.host(server), server === "vps");
  }
  const higgs: Record<string, Contender> = {};
  for (const name of names) {
    const pair = HIGGS_PAIRS[name];
    if (pair !== undefined) higgs[name] = await higgsPair(lab, pair, signal);
    progress(`${name}: up`);
  }
  const [first] = Object.values(higgs);
  const plain: Record<string, Contender> = {};
  const carried = first === undefined ? null : await carriedCopy(first.laptop);
  try {
    if (wanted(PLAIN)) plain[PLAIN] = await plainPair(lab, PLAIN, carried);
  } finally {
    if (carried !== null) rmSync(carried);
  }
  const debian = process.env.WIREGUARD_GO ?? Bun.which("wireguard-go");
  if (wanted(DEBIAN) && debian !== null && existsSync(debian)) plain[DEBIAN] = await plainPair(lab, DEBIAN, debian);
  else progress(`${DEBIAN} is left out: apt-get install wireguard-go, or WIREGUARD_GO=PATH`);
  return { ...plain, ...higgs };
}

async function checkRelay(server: LabHost, kernel: boolean): Promise<void> {
  const status = JSON.parse(await server.execOrThrow([HIGGS, "server", "status", "--json"])) as {
    relay: { kernel: boolean };
  };
  if (status.relay.kernel !== kernel) {
    throw new Error(`Cannot measure: the relay on "${server.name}" is ${kernel ? "not in" : "in"} the kernel.`);
  }
}

async function higgsPair(lab: Lab, pair: HiggsPair, signal: AbortSignal): Promise<Contender> {
  const { server, suffix, path } = pair;
  const [laptop, home] = [lab.host(`laptop-${suffix}`), lab.host(`home-${suffix}`)];
  await startNode(lab, signal, { host: home.name, invite: await inviteFor(lab, "node", signal, server) });
  const paths = path === "wss" ? "wss" : `${path},wss`;
  await clientUp(lab, signal, {
    host: laptop.name,
    invite: await inviteFor(lab, "client", signal, server),
    flags: ["--exit", home.name, "--paths", paths],
  });
  await untilPath(laptop, path, signal);
  return {
    laptop,
    path,
    watch: {
      ...processIfAny("laptop wireguard-go", laptop),
      ...processIfAny("home wireguard-go", home),
      client: processIn(laptop, PROCESS.client),
      node: processIn(home, PROCESS.node),
      server: processIn(lab.host(server), PROCESS.server),
    },
  };
}

/** None where the kernel does it. */
function processIfAny(name: string, host: LabHost): Record<string, number> {
  try {
    return { [name]: processIn(host, PROCESS.wireGuard) };
  } catch {
    return {};
  }
}

/** The very program that higgs runs on the laptop; null where it uses the kernel's. */
async function carriedCopy(laptop: LabHost): Promise<string | null> {
  const [pid] = Object.values(processIfAny("", laptop));
  if (pid === undefined) return null;
  const path = join(tmpdir(), `higgs-bench-wg-${process.pid}`);
  await copyFile(`/proc/${pid}/exe`, path);
  return path;
}

async function plainPair(lab: Lab, name: string, programPath: string | null): Promise<Contender> {
  const pair = PLAIN_PAIRS[name];
  if (pair === undefined) throw new Error(`There is no pair "${name}".`);
  const { suffix, port } = pair;
  const ends = { laptop: lab.host(`laptop-${suffix}`), home: lab.host(`home-${suffix}`) };
  await plainTunnel(ends, { programPath, endpoint: `203.0.113.7:${port}`, listenPort: port });
  if (programPath === null) return { laptop: ends.laptop, watch: {}, path: null };
  const [laptop, home] = [processIn(ends.laptop, PLAIN_PROCESS), processIn(ends.home, PLAIN_PROCESS)];
  return { laptop: ends.laptop, watch: { "laptop wireguard-go": laptop, "home wireguard-go": home }, path: null };
}
