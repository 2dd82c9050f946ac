// The UDP relays against coturn on the same packets: datagrams a second, and what they cost.
import { resolve } from "node:path";
import type { LabHost } from "../src/lab/host.ts";
import { type Lab, startLab } from "../src/lab/lab.ts";
import type { LabProcess } from "../src/lab/process.ts";
import type { HostSpec } from "../src/lab/topology.ts";
import { type Coturn, findCoturn } from "./coturn.ts";
import type { SendOrder, SendResult } from "./datagrams.program.ts";
import { alternating, type BenchArguments, median, progress, round, row, type Row } from "./lib.ts";
import { processIn } from "./network.ts";
import { cpuDuring } from "./processes.ts";

const ROOT_DIR = resolve(import.meta.dir, "..");
const PROGRAM = resolve(import.meta.dir, "datagrams.program.ts");
const NAMES = ["server", "left", "right"] as const;
const [SERVER, RIGHT] = ["10.0.0.1", "10.0.0.3"];
/** As WireGuard's full packets, and as those that carry a call or a game. */
const SHAPES: Readonly<Record<string, Pick<SendOrder, "sizeBytes" | "batch">>> = {
  "1452 bytes, 32 at once": { sizeBytes: 1452, batch: 32 },
  "1452 bytes, one by one": { sizeBytes: 1452, batch: 1 },
  "200 bytes, one by one": { sizeBytes: 200, batch: 1 },
};
const END_PORT = 51_820;

interface Sample {
  readonly perSecond: number;
  readonly lost: number;
  /** Processor seconds for 10⁹ bits that arrived: of the relay's process, and of all three. */
  readonly relayPerGigabit: number;
  readonly allPerGigabit: number;
}

interface Contender {
  readonly relayAt: string;
  readonly pid: number;
  readonly receiver: LabProcess;
  readonly turnPeer: string | null;
}

export async function datagramRows(args: BenchArguments, signal: AbortSignal): Promise<Row[]> {
  const coturn = findCoturn();
  await using lab = await startLab(
    { segments: [{ name: "wire" }], hosts: NAMES.map(hostOn) },
    { signal, programs: { bun: process.execPath }, visible: [ROOT_DIR] },
  );
  const made: Row[] = [];
  for (const [shape, { sizeBytes, batch }] of Object.entries(SHAPES)) {
    const measure = async (contender: () => Promise<Contender & AsyncDisposable>): Promise<Sample> => {
      await using opened = await contender();
      const order = { seconds: args.seconds, sizeBytes, batch, turnPeer: opened.turnPeer };
      return await measured(lab, opened, order, signal);
    };
    const results = await alternating<Sample>(
      {
        "kernel relay": () => measure(() => ourRelay(lab, "kernel")),
        "process relay": () => measure(() => ourRelay(lab, "process")),
        ...(coturn === null ? {} : { coturn: () => measure(() => turnServer(lab, coturn)) }),
      },
      { rounds: args.rounds, signal },
    );
    for (const [name, samples] of Object.entries(results)) made.push(sampleRow(`${name}, ${shape}`, samples));
    for (const name of ["kernel relay", "process relay"]) {
      const rate = (of: string): number => median((results[of] ?? []).map((one) => one.perSecond));
      if (coturn !== null) made.push(row(`  ${name} ÷ coturn`, round(rate(name) / rate("coturn"))));
    }
  }
  if (coturn !== null) made.push(await ownLoad(lab, coturn, args, signal));
  return made;
}

function sampleRow(what: string, samples: readonly Sample[]): Row {
  const of = (key: keyof Sample): number => median(samples.map((sample) => sample[key]));
  const cost = `relay ${round(of("relayPerGigabit"))}, with both ends ${round(of("allPerGigabit"))} CPU s/Gbit`;
  const text = `${round(of("perSecond") / 1000)} k datagrams/s, ${round(of("lost") * 100)} % lost; ${cost}`;
  progress(`${what}: ${text}`);
  return row(what, text);
}

function hostOn(name: string, index: number): HostSpec {
  const ipv4 = `10.0.0.${index + 1}/24`;
  return {
    name,
    kind: name === "server" ? "router" : "host",
    interfaces: [{ name: "eth0", segment: "wire", ipv4 }],
    routes: [],
    nameservers: [],
    sysctls: { "net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.eth0.send_redirects": "0" },
  };
}

function program(host: LabHost, ...args: readonly string[]): Promise<LabProcess> {
  return host.spawn(["bun", "--preload", resolve(ROOT_DIR, "scripts/preload.ts"), PROGRAM, ...args]);
}

const PROCESS = /datagrams\.program\.ts/;

async function ourRelay(lab: Lab, how: "kernel" | "process"): Promise<Contender & AsyncDisposable> {
  const server = lab.host("server");
  await using stack = new AsyncDisposableStack();
  const relay = stack.use(await program(server, "relay", how, SERVER));
  stack.defer(async () => {
    await server.execOrThrow(["nft", "flush", "ruleset"]);
  });
  const relayAt = (await relay.waitForLine(/^relay /)).slice("relay ".length);
  const receiver = stack.use(await program(lab.host("right"), "receive", relayAt));
  await receiver.waitForLine(/^at /);
  const owned = stack.move();
  return {
    relayAt,
    pid: processIn(server, PROCESS),
    receiver,
    turnPeer: null,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function turnFlags(): readonly string[] {
  const where = ["--listening-ip", SERVER ?? "", "--relay-ip", SERVER ?? "", "--listening-port", "3478"];
  const quiet = [
    "--no-tls",
    "--no-dtls",
    "--no-cli",
    "--no-stdout-log",
    "--log-file",
    "/dev/null",
    "--pidfile",
    "/tmp/turn.pid",
  ];
  return ["-n", "--no-auth", ...where, ...quiet, "--min-port", "41000", "--max-port", "41999"];
}

async function turnServer(lab: Lab, coturn: Coturn): Promise<Contender & AsyncDisposable> {
  const server = lab.host("server");
  await using stack = new AsyncDisposableStack();
  stack.use(await server.spawn([...coturn.argv("turnserver"), ...turnFlags()]));
  const receiver = stack.use(await program(lab.host("right"), "receive", "-"));
  await receiver.waitForLine(/^at /);
  await listening(server);
  const owned = stack.move();
  return {
    relayAt: `${SERVER}:3478`,
    pid: processIn(server, /turnserver/),
    receiver,
    turnPeer: `${RIGHT}:${END_PORT}`,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function listening(server: LabHost): Promise<void> {
  const until = performance.now() + 5_000;
  while (!(await server.execOrThrow(["ss", "-Hlun"])).includes(":3478")) {
    if (performance.now() > until) throw new Error("Cannot measure: turnserver does not listen.");
    await Bun.sleep(20);
  }
}

async function measured(lab: Lab, to: Contender, order: SendOrder, signal: AbortSignal): Promise<Sample> {
  const left = lab.host("left");
  await using sender = await program(left, "send", to.relayAt, JSON.stringify(order));
  const pids = { relay: to.pid, sender: processIn(left, PROCESS), receiver: processIn(lab.host("right"), PROCESS) };
  const { result: line, cpu } = await cpuDuring(pids, () =>
    sender.waitForLine(/^result /, { timeoutMs: (order.seconds + 15) * 1000, signal }),
  );
  const { received, lost, seconds } = JSON.parse(line.slice("result ".length)) as SendResult;
  const gigabits = (received * order.sizeBytes * 8) / 1e9;
  const all = Object.values(cpu).reduce((sum, value) => sum + value, 0);
  return {
    perSecond: received / seconds,
    lost: lost / Math.max(1, received + lost),
    relayPerGigabit: (cpu["relay"] ?? 0) / gigabits,
    allPerGigabit: all / gigabits,
  };
}

/**
 * What coturn's own tool makes of it: its clients send to a peer that sends everything back. At the end it waits some seconds for what
 * was lost, so the rate is that of its best second, by what it says every second.
 */
async function ownLoad(lab: Lab, coturn: Coturn, args: BenchArguments, signal: AbortSignal): Promise<Row> {
  await using _server = await lab.host("server").spawn([...coturn.argv("turnserver"), ...turnFlags()]);
  await using _peer = await lab.host("right").spawn([...coturn.argv("turnutils_peer"), "-p", "3480"]);
  await listening(lab.host("server"));
  const messages = args.seconds * 4_000;
  const load = ["-e", RIGHT ?? "", "-r", "3480", "-m", "16", "-n", String(messages), "-l", "1452", "-z", "0", "-c"];
  const argv = [...coturn.argv("turnutils_uclient"), ...load, SERVER ?? ""];
  const pids = { relay: processIn(lab.host("server"), /turnserver/) };
  const { result, cpu } = await cpuDuring(pids, () => lab.host("left").exec(argv, { timeoutMs: 90_000, signal }));
  const told = [...(result.stdout + result.stderr).matchAll(/tot_send_msgs=(\d+), tot_recv_msgs=(\d+)/g)];
  const [sent, received] = [1, 2].map((group) => told.map((match) => Number(match[group])));
  const came = received ?? [];
  const best = Math.max(0, ...came.map((count, i) => count - (came[i - 1] ?? 0)));
  const [all, back] = [sent?.at(-1) ?? 0, came.at(-1) ?? 0];
  // Each message crosses the relay twice.
  const gigabits = ((all + back) * 1452 * 8) / 1e9;
  const lost = `${round((1 - back / Math.max(1, all)) * 100)} % lost`;
  const cost = `relay ${round((cpu["relay"] ?? 0) / gigabits)} CPU s/Gbit`;
  return row(
    "coturn, turnutils_uclient's own load, 16 clients",
    `${round((best * 2) / 1000)} k datagrams/s in its best second, ${lost}; ${cost}`,
  );
}
