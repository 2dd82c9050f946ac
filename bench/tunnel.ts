// `bun bench/tunnel.ts`: traffic through the wss path against plain WireGuard between the same places, in one run.
import { existsSync, rmSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cafeHost, homeHost } from "../src/lab/small-internet.ts";
import type { Lab } from "../src/lab/lab.ts";
import type { LabHost } from "../src/lab/host.ts";
import { type Direction, iperfServer, pings, type Transfer, transfer } from "./iperf.ts";
import {
  alternating,
  atLeast,
  atMost,
  benchArguments,
  benchSignal,
  median,
  percentile,
  printTable,
  progress,
  round,
  row,
  type Row,
} from "./lib.ts";
import { benchLab, clientUp, PROCESS, processIn, startNetwork } from "./network.ts";
import { PLAIN_PROCESS, plainTunnel } from "./plain-wireguard.ts";
import { machineText } from "./processes.ts";

const DEBIAN = "Debian's wireguard-go";
const PLAIN = "plain WireGuard";
const WSS = "higgs wss";
const PING_COUNT = 250;

interface Contender {
  readonly laptop: LabHost;
  readonly watch: Readonly<Record<string, number>>;
}

const args = benchArguments({ seconds: 4, rounds: 3 });
const signal = benchSignal(900);

// Each pair stands in the same two places: higgs's kill switch would stop a second tunnel on its own two machines.
await using lab = await benchLab(
  {
    extraHosts: [
      cafeHost("laptop-plain", 31),
      homeHost("home-plain", 31),
      cafeHost("laptop-debian", 32),
      homeHost("home-debian", 32),
    ],
    homeRouter: {
      forwards: [
        { protocol: "udp", port: 51831, to: "192.168.1.31", toPort: 51831 },
        { protocol: "udp", port: 51832, to: "192.168.1.32", toPort: 51832 },
      ],
    },
  },
  signal,
);
const contenders = await makeContenders(lab);
await using _iperf = await iperfServer(lab.host("web"));
progress(`${machineText()}; ${Object.keys(contenders).join(", ")}`);

const idle = await measurePings();
const up = await measureTransfers("up");
const down = await measureTransfers("down");
const loaded = await measureLoadedPings();
printTable("bench/tunnel: laptop → café's router → internet → home's router → home PC → web", tableRows());

async function makeContenders(inLab: Lab): Promise<Record<string, Contender>> {
  const network = await startNetwork(inLab, signal);
  await forceWss(inLab.host("laptop"));
  await clientUp(inLab, signal, network.clientInvite);
  const [laptop, home, vps] = [inLab.host("laptop"), inLab.host("home-pc"), inLab.host("vps")];
  const made: Record<string, Contender> = {};
  const carried = await carriedCopy(laptop);
  try {
    made[PLAIN] = await plain(inLab, { suffix: "plain", port: 51831, programPath: carried });
  } finally {
    if (carried !== null) rmSync(carried);
  }
  made[WSS] = {
    laptop,
    watch: {
      ...(carried === null
        ? {}
        : {
            "laptop wireguard-go": processIn(laptop, PROCESS.wireGuard),
            "home wireguard-go": processIn(home, PROCESS.wireGuard),
          }),
      client: processIn(laptop, PROCESS.client),
      node: processIn(home, PROCESS.node),
      server: processIn(vps, PROCESS.server),
    },
  };
  const debian = process.env.WIREGUARD_GO ?? Bun.which("wireguard-go");
  if (debian === null || !existsSync(debian))
    progress(`${DEBIAN} is left out: apt-get install wireguard-go, or WIREGUARD_GO=PATH`);
  else made[DEBIAN] = await plain(inLab, { suffix: "debian", port: 51832, programPath: debian });
  return made;
}

/** A network that lets no UDP out leaves only the WebSocket; the other laptops in the same café are not touched. */
async function forceWss(laptop: LabHost): Promise<void> {
  const rule = 'oifname "eth0" meta l4proto udp udp dport != 53 drop';
  await laptop.execOrThrow(["nft", "-f", "-"], {
    stdin: `table inet bench {\n  chain out {\n    type filter hook output priority 0\n    ${rule}\n  }\n}\n`,
  });
}

/** The very program that higgs runs on the laptop; null where it uses the kernel's. */
async function carriedCopy(laptop: LabHost): Promise<string | null> {
  let pid: number;
  try {
    pid = processIn(laptop, PROCESS.wireGuard);
  } catch {
    return null; // no process: the kernel does it
  }
  const path = join(tmpdir(), `higgs-bench-wg-${process.pid}`);
  await copyFile(`/proc/${pid}/exe`, path);
  return path;
}

async function plain(
  inLab: Lab,
  at: { readonly suffix: string; readonly port: number; readonly programPath: string | null },
): Promise<Contender> {
  const ends = { laptop: inLab.host(`laptop-${at.suffix}`), home: inLab.host(`home-${at.suffix}`) };
  await plainTunnel(ends, { programPath: at.programPath, endpoint: `203.0.113.7:${at.port}`, listenPort: at.port });
  if (at.programPath === null) return { laptop: ends.laptop, watch: {} };
  return {
    laptop: ends.laptop,
    watch: { laptop: processIn(ends.laptop, PLAIN_PROCESS), home: processIn(ends.home, PLAIN_PROCESS) },
  };
}

async function measurePings(): Promise<Record<string, number[][]>> {
  const measurements = Object.entries(contenders).map(
    ([name, { laptop }]) => [name, () => pings(laptop, { count: PING_COUNT, signal })] as const,
  );
  return await alternating(Object.fromEntries(measurements), { rounds: 1, signal });
}

async function measureTransfers(direction: Direction): Promise<Record<string, Transfer[]>> {
  const measurements = Object.entries(contenders).map(
    ([name, { laptop, watch }]) =>
      [
        name,
        async () => {
          const result = await transfer(laptop, { direction, seconds: args.seconds, watch, signal });
          progress(`${direction} ${name}: ${round(result.mbitPerSecond)} Mbit/s`);
          return result;
        },
      ] as const,
  );
  return await alternating(Object.fromEntries(measurements), { rounds: args.rounds, signal });
}

async function measureLoadedPings(): Promise<Record<string, number[][]>> {
  const count = Math.min(PING_COUNT, (args.seconds - 1) * 50);
  const measurements = Object.entries(contenders).map(
    ([name, { laptop }]) =>
      [
        name,
        async () => {
          const busy = transfer(laptop, { direction: "down", seconds: args.seconds, watch: {}, signal });
          const [times] = await Promise.all([pings(laptop, { count: Math.max(20, count), signal }), busy]);
          return times;
        },
      ] as const,
  );
  return await alternating(Object.fromEntries(measurements), { rounds: 1, signal });
}

function rate(transfers: Record<string, Transfer[]>, name: string): number {
  return median((transfers[name] ?? []).map((one) => one.mbitPerSecond));
}

function cpu(name: string, processName: string): number {
  const all = [...(up[name] ?? []), ...(down[name] ?? [])];
  return median(all.map((one) => one.cpuPerGigabyte[processName] ?? Number.NaN));
}

function tableRows(): Row[] {
  const rows: Row[] = [];
  for (const [direction, transfers] of [
    ["up", up],
    ["down", down],
  ] as const) {
    for (const name of Object.keys(contenders))
      rows.push(row(`${name}, ${direction}`, `${round(rate(transfers, name))} Mbit/s`));
    rows.push(atLeast(`${WSS} ÷ ${PLAIN}, ${direction}`, rate(transfers, WSS) / rate(transfers, PLAIN), 0.25));
    if (DEBIAN in contenders)
      rows.push(row(`${WSS} ÷ ${DEBIAN}, ${direction}`, round(rate(transfers, WSS) / rate(transfers, DEBIAN))));
  }
  for (const [state, times] of [
    ["idle", idle],
    ["under load", loaded],
  ] as const) {
    for (const name of Object.keys(contenders)) {
      const all = (times[name] ?? []).flat();
      rows.push(
        row(`ping ${state}, ${name}: p50, p99`, `${round(percentile(all, 50))}, ${round(percentile(all, 99))} ms`),
      );
    }
  }
  for (const [name, { watch }] of Object.entries(contenders)) {
    for (const processName of Object.keys(watch))
      rows.push(row(`CPU s/GB, ${name}, ${processName}`, round(cpu(name, processName))));
  }
  const ends = ["laptop", "home"].map((end) => cpu(PLAIN, end));
  if (ends.every(Number.isFinite)) {
    const end = ends.reduce((sum, value) => sum + value, 0) / ends.length;
    rows.push(atMost("CPU s/GB of the relay ÷ of one plain WireGuard end", cpu(WSS, "server") / end, 1, ""));
  }
  return rows;
}
