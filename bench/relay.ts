// `bun bench/relay.ts`: the relays alone: what passes and what it costs, by WebSocket and by UDP beside coturn; and the memory of idle connections.
import { type Crowd, startCrowd } from "./crowd.ts";
import {
  atMost,
  benchArguments,
  benchSignal,
  median,
  printTable,
  progress,
  round,
  row,
  type Row,
  wants,
} from "./lib.ts";
import { datagramRows } from "./datagrams.ts";
import { type LocalServer, localServer } from "./local-server.ts";
import { cpuSeconds, machineText, memory } from "./processes.ts";

/** Frames of one packet, and of as many as fill 16 and 64 KiB. */
const BATCHES: Readonly<Record<string, number>> = { "one packet": 1, "16 KiB": 11, "64 KiB": 46 };

const args = benchArguments({ seconds: 3, rounds: 3 });
const signal = benchSignal(900);
const rows: Row[] = [];
progress(machineText());
if (wants(args, "throughput")) for (const pairs of [1, 4]) rows.push(...(await throughput(pairs)));
if (wants(args, "memory")) rows.push(...(await idleMemory([1000, 5000])));
if (rows.length > 0)
  printTable("bench/relay: WebSocket, TLS, loopback, senders and receivers in processes of their own", rows);
if (wants(args, "udp")) printTable("bench/relay: UDP, three hosts on one wire", await datagramRows(args, signal));

interface Sample {
  readonly mbitPerSecond: number;
  readonly cpuPerGigabyte: number;
  readonly lost: number;
}

async function throughput(pairs: number): Promise<Row[]> {
  await using server = await localServer(signal);
  await using stack = new AsyncDisposableStack();
  const all = await Promise.all(Array.from({ length: pairs }, (_, n) => makePair(server, stack, n)));
  const made: Row[] = [];
  for (const [name, packets] of Object.entries(BATCHES)) {
    const samples: Sample[] = [];
    for (let i = 0; i < args.rounds; i++) {
      signal.throwIfAborted();
      samples.push(await measure(server, all, packets));
    }
    const of = (key: keyof Sample): number => median(samples.map((sample) => sample[key]));
    progress(`${pairs} pairs, frames of ${name}: ${round(of("mbitPerSecond"))} Mbit/s`);
    const figures = `${round(of("mbitPerSecond"))} Mbit/s, ${round(of("cpuPerGigabyte"))} CPU s/GB, ${round(of("lost") * 100)} % dropped`;
    made.push(row(`${pairs} ${pairs === 1 ? "pair" : "pairs"}, frames of ${name}`, figures));
  }
  return made;
}

interface Pair {
  readonly sender: Crowd;
  readonly receiver: Crowd;
}

async function makePair(server: LocalServer, stack: AsyncDisposableStack, n: number): Promise<Pair> {
  const place = { port: server.port, pin: server.pin };
  const sender = stack.use(startCrowd());
  const receiver = stack.use(startCrowd());
  const first = n * 2 + 1;
  await sender.tell({ do: "enrol", place, invites: await server.invites("client", 1), first, count: 1 });
  const { ids } = await receiver.tell({
    do: "enrol",
    place,
    invites: await server.invites("node", 1),
    first: first + 1,
    count: 1,
  });
  for (const end of [receiver, sender]) {
    await end.tell({ do: "control" });
    await end.tell({ do: "relay", upTo: 1 });
  }
  await sender.tell({ do: "connect", peer: ids?.[0] ?? "" });
  return { sender, receiver };
}

async function measure(server: LocalServer, pairs: readonly Pair[], packets: number): Promise<Sample> {
  const cpuBefore = cpuSeconds(server.pid);
  const sent = await Promise.all(
    pairs.map(({ sender }) => sender.tell({ do: "send", packets, seconds: args.seconds })),
  );
  await Bun.sleep(300); // what is under way still arrives, and counts with the time it took
  const counted = await Promise.all(pairs.map(({ receiver }) => receiver.tell({ do: "count" })));
  const cpu = cpuSeconds(server.pid) - cpuBefore;
  const bytes = counted.reduce((sum, one) => sum + (one.bytesIn ?? 0), 0);
  const spanMs = Math.max(...counted.map((one) => one.spanMs ?? 0));
  const frames = sent.reduce((sum, one) => sum + (one.framesOut ?? 0), 0);
  const frameBytes = 5 + packets * 1402;
  return {
    mbitPerSecond: (bytes * 8) / (spanMs * 1000),
    cpuPerGigabyte: cpu / (bytes / 1e9),
    lost: 1 - bytes / (frames * frameBytes),
  };
}

/** Machines are enrolled and have their tokens before the first measurement, so that a connection is all that is added. */
async function idleMemory(steps: readonly number[]): Promise<Row[]> {
  await using server = await localServer(signal);
  await using crowd = startCrowd();
  const count = Math.max(...steps);
  const invites = await server.invites("client", count);
  await crowd.tell({ do: "enrol", place: { port: server.port, pin: server.pin }, invites, first: 1, count });
  await Bun.sleep(2_000); // whatever enrolment left is collected
  const before = memory(server.pid);
  let atFirst = 0;
  const made: Row[] = [row("server, machines enrolled, nobody connected: resident", `${round(before.rssMiB)} MiB`)];
  for (const step of steps) {
    signal.throwIfAborted();
    await crowd.tell({ do: "relay", upTo: step });
    await Bun.sleep(2_000);
    const after = memory(server.pid).rssMiB;
    const kib = ((after - before.rssMiB) * 1024) / step;
    progress(`${step} idle connections: ${round(kib)} KiB each`);
    made.push(atMost(`idle relay connection, of ${step}`, kib, 12, "KiB"));
    // The first ones may find room in what enrolment left; these cannot.
    const [firstStep] = steps;
    if (step === firstStep) atFirst = after;
    else
      made.push(
        atMost(
          `each one after the first ${firstStep}`,
          ((after - atFirst) * 1024) / (step - (firstStep ?? 0)),
          12,
          "KiB",
        ),
      );
  }
  return made;
}
