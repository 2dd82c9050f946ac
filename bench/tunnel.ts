// `bun bench/tunnel.ts`: traffic over every kind of path against plain WireGuard between the same places, in one run.
import {
  type Contender,
  contenderHosts,
  DEBIAN,
  DIRECT,
  KERNEL,
  makeContenders,
  PLAIN,
  PROCESS_RELAY,
  WSS,
} from "./contenders.ts";
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
  wants,
} from "./lib.ts";
import { benchLab, pathKind } from "./network.ts";
import { machineText } from "./processes.ts";

const PING_COUNT = 250;
/** `--only` takes these words. */
const PARTS: Readonly<Record<string, string>> = {
  [PLAIN]: "plain",
  [DEBIAN]: "debian",
  [DIRECT]: "direct",
  [KERNEL]: "kernel",
  [PROCESS_RELAY]: "process",
  [WSS]: "wss",
};

const args = benchArguments({ seconds: 4, rounds: 3 });
const signal = benchSignal(1200);

await using lab = await benchLab(contenderHosts(), signal);
const contenders = await makeContenders(lab, (name) => wants(args, PARTS[name] ?? name), signal);
await using _iperf = await iperfServer(lab.host("web"));
progress(`${machineText()}; ${Object.keys(contenders).join(", ")}`);

const idle = await measurePings();
const up = await measureTransfers("up");
const down = await measureTransfers("down");
const loaded = await measureLoadedPings();
printTable("bench/tunnel: laptop → café's router → internet → home's router → home PC → web", tableRows());

/** By each in turn; a measurement is of the path that it is named after, before and after, or of none. */
async function eachInTurn<T>(
  rounds: number,
  measure: (contender: Contender, name: string) => Promise<T>,
): Promise<Record<string, T[]>> {
  const measurements = Object.entries(contenders).map(([name, contender]) => {
    const once = async (): Promise<T> => {
      await checkPath(name, contender);
      const result = await measure(contender, name);
      await checkPath(name, contender);
      return result;
    };
    return [name, once] as const;
  });
  return await alternating(Object.fromEntries(measurements), { rounds, signal });
}

async function checkPath(name: string, { laptop, path }: Contender): Promise<void> {
  const kind = path === null ? null : await pathKind(laptop);
  if (kind !== path) throw new Error(`Cannot measure "${name}": the path is ${kind} now.`);
}

async function measurePings(): Promise<Record<string, number[][]>> {
  return await eachInTurn(1, ({ laptop }) => pings(laptop, { count: PING_COUNT, signal }));
}

async function measureTransfers(direction: Direction): Promise<Record<string, Transfer[]>> {
  return await eachInTurn(args.rounds, async ({ laptop, watch }, name) => {
    const result = await transfer(laptop, { direction, seconds: args.seconds, watch, signal });
    progress(`${direction} ${name}: ${round(result.mbitPerSecond)} Mbit/s`);
    return result;
  });
}

async function measureLoadedPings(): Promise<Record<string, number[][]>> {
  const count = Math.max(20, Math.min(PING_COUNT, (args.seconds - 1) * 50));
  return await eachInTurn(1, async ({ laptop }) => {
    const busy = transfer(laptop, { direction: "down", seconds: args.seconds, watch: {}, signal });
    const [times] = await Promise.all([pings(laptop, { count, signal }), busy]);
    return times;
  });
}

function rate(transfers: Record<string, Transfer[]>, name: string): number {
  return median((transfers[name] ?? []).map((one) => one.mbitPerSecond));
}

function cpu(name: string, processName: string): number {
  const all = [...(up[name] ?? []), ...(down[name] ?? [])];
  return median(all.map((one) => one.cpuPerGigabyte[processName] ?? Number.NaN));
}

function pingTime(times: Record<string, number[][]>, name: string, percent: number): number {
  return percentile((times[name] ?? []).flat(), percent);
}

function tableRows(): Row[] {
  const names = Object.keys(contenders);
  const rows: Row[] = [];
  const ratio = (name: string, to: string, least: number | null): void => {
    if (!(name in contenders) || !(to in contenders)) return;
    for (const [direction, transfers] of [
      ["up", up],
      ["down", down],
    ] as const) {
      const value = rate(transfers, name) / rate(transfers, to);
      const what = `${name} ÷ ${to}, ${direction}`;
      rows.push(least === null ? row(what, round(value)) : atLeast(what, value, least));
    }
  };
  for (const name of names)
    rows.push(row(`${name}: up, down`, `${round(rate(up, name))}, ${round(rate(down, name))} Mbit/s`));
  ratio(DIRECT, PLAIN, 0.98);
  ratio(KERNEL, DIRECT, 0.9);
  ratio(PROCESS_RELAY, DIRECT, 0.25);
  ratio(WSS, DIRECT, 0.25);
  ratio(WSS, DEBIAN, null);
  for (const name of names) {
    const text = [idle, loaded].map(
      (times) => `${round(pingTime(times, name, 50))}, ${round(pingTime(times, name, 99))}`,
    );
    rows.push(row(`ping of ${name}: idle p50, p99; loaded p50, p99`, `${text.join("; ")} ms`));
  }
  if (KERNEL in contenders && DIRECT in contenders) {
    const added = pingTime(idle, KERNEL, 50) - pingTime(idle, DIRECT, 50);
    rows.push(atMost(`${KERNEL}: round trip added to ${DIRECT}, idle p50`, added, 0.2, "ms"));
  }
  for (const [name, { watch }] of Object.entries(contenders)) {
    const text = Object.keys(watch).map((processName) => `${processName} ${round(cpu(name, processName))}`);
    if (text.length > 0) rows.push(row(`CPU s/GB of ${name}`, text.join(", ")));
  }
  const ends = ["laptop", "home"].map((end) => cpu(PLAIN, `${end} wireguard-go`));
  const end = median(ends);
  for (const name of [WSS, PROCESS_RELAY]) {
    if (!(name in contenders) || !Number.isFinite(end)) continue;
    rows.push(
      atMost(`CPU s/GB of the server's ${name} ÷ of one plain WireGuard end`, cpu(name, "server") / end, 1, ""),
    );
  }
  return rows;
}
