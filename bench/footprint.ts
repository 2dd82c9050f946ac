// `bun bench/footprint.ts`: the executable's size and start, resident memory of each role, and a server with a thousand machines.
import { statSync } from "node:fs";
import { type Crowd, startCrowd } from "./crowd.ts";
import {
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
import { type LocalServer, localServer } from "./local-server.ts";
import { benchLab, clientUp, higgsBinary, PROCESS, processIn, startNetwork } from "./network.ts";
import { cpuSeconds, machineText, memory, processesIn } from "./processes.ts";

const NODES = 100;
const CLIENTS = 900;
const CROWDS = 3;
/** A tenth of a thousand machines a minute. */
const CHANGE_EVERY_MS = 600;
/** What a process had for its start is given back after some seconds. */
const SETTLE_MS = 12_000;
/** What it had for a busy time, such as a thousand enrolments, within a minute. */
const CALM_MS = 65_000;

const args = benchArguments({ seconds: 20, rounds: 20 });
const signal = benchSignal(600);
const rows: Row[] = [];
progress(machineText());
if (wants(args, "start")) rows.push(...startTimes());
if (wants(args, "roles")) rows.push(...(await roles()));
if (wants(args, "thousand")) rows.push(...(await thousand()));
printTable("bench/footprint", rows);

function startTimes(): Row[] {
  const path = higgsBinary();
  const times: number[] = [];
  for (let i = -2; i < args.rounds; i++) {
    const started = performance.now();
    Bun.spawnSync([path, "version"], { cwd: "/", env: {} });
    if (i >= 0) times.push(performance.now() - started);
  }
  return [
    row("size of the executable", `${round(statSync(path).size / 1e6)} MB`),
    atMost(`higgs version, median of ${args.rounds}, warm`, median(times), 60, "ms"),
    row("  the slowest of them", `${round(percentile(times, 100))} ms`),
  ];
}

/** A network of one server, one node and one connected client that has nothing to do. */
async function roles(): Promise<Row[]> {
  await using lab = await benchLab({}, signal);
  const network = await startNetwork(lab, signal);
  await clientUp(lab, signal, { invite: network.clientInvite });
  await Bun.sleep(SETTLE_MS);
  signal.throwIfAborted();
  const [laptop, home, vps] = [lab.host("laptop"), lab.host("home-pc"), lab.host("vps")];
  const made: Row[] = [];
  const limits: Readonly<Record<string, readonly [number, number | null]>> = {
    server: [processIn(vps, PROCESS.server), null],
    node: [processIn(home, PROCESS.node), 64],
    client: [processIn(laptop, PROCESS.client), 64],
  };
  for (const [name, [pid, limit]] of Object.entries(limits)) {
    const { rssMiB, anonymousMiB } = memory(pid);
    const what = `${name}, idle: resident memory`;
    made.push(limit === null ? row(what, `${round(rssMiB)} MiB`) : atMost(what, rssMiB, limit, "MiB"));
    made.push(row("  without the pages of the executable's file", `${round(anonymousMiB)} MiB`));
  }
  for (const host of [laptop, home]) {
    for (const pid of processesIn(host.pid, PROCESS.wireGuard)) {
      made.push(row(`wireguard-go of ${host.name}, idle: resident memory`, `${round(memory(pid).rssMiB)} MiB`));
    }
  }
  return made;
}

async function thousand(): Promise<Row[]> {
  await using server = await localServer(signal);
  await using stack = new AsyncDisposableStack();
  const nodes = stack.use(startCrowd());
  const clients = Array.from({ length: CROWDS }, () => stack.use(startCrowd()));
  await enrolAll(server, nodes, clients);
  const enrolled = memory(server.pid);
  progress(`${NODES + CLIENTS} machines enrolled`);
  for (const crowd of [nodes, ...clients]) await crowd.tell({ do: "control" });
  await Bun.sleep(CALM_MS);
  signal.throwIfAborted();
  const connected = memory(server.pid);
  progress("all connected");

  const cpuBefore = cpuSeconds(server.pid);
  const changes = Math.max(1, Math.floor((args.seconds * 1000) / CHANGE_EVERY_MS));
  for (let index = 0; index < changes; index++) {
    signal.throwIfAborted();
    await nodes.tell({ do: "presence", index });
    await Bun.sleep(CHANGE_EVERY_MS);
  }
  await Bun.sleep(1_000);
  const cpu = cpuSeconds(server.pid) - cpuBefore;
  const answers = await Promise.all(clients.map((crowd) => crowd.tell({ do: "delays" })));
  const delays = answers.flatMap((answer) => answer.delays ?? []);
  const expected = changes * CLIENTS;
  return [
    row(`server, ${NODES} nodes and ${CLIENTS} clients enrolled: resident`, `${round(enrolled.rssMiB)} MiB`),
    atMost("server, all of them connected: resident", connected.rssMiB, 128, "MiB"),
    row("  without the pages of the executable's file", `${round(connected.anonymousMiB)} MiB`),
    row(`deltas received of ${changes} changes, each seen by ${CLIENTS}`, `${delays.length} of ${expected}`),
    atMost("change → delta at all that may see it, p99", percentile(delays, 99), 200, "ms"),
    row("  p50, slowest", `${round(percentile(delays, 50))}, ${round(percentile(delays, 100))} ms`),
    row("  the server's CPU for it", `${round((cpu / args.seconds) * 100)} % of a core`),
  ];
}

async function enrolAll(server: LocalServer, nodes: Crowd, clients: readonly Crowd[]): Promise<void> {
  const place = { port: server.port, pin: server.pin };
  const count = CLIENTS / CROWDS;
  const work = [
    nodes.tell({ do: "enrol", place, invites: await server.invites("node", NODES), first: 1, count: NODES }),
  ];
  for (const [i, crowd] of clients.entries()) {
    const invites = await server.invites("client", count);
    work.push(crowd.tell({ do: "enrol", place, invites, first: 1 + NODES + i * count, count }));
  }
  await Promise.all(work);
}
