// `bun bench/connect.ts`: joining, from a command to the first byte and to a direct path, moves, dying paths, and coming back after kill -9.
import type { Lab } from "../src/lab/lab.ts";
import type { LabHost } from "../src/lab/host.ts";
import type { LabProcess } from "../src/lab/process.ts";
import { WEB_NAME } from "../src/lab/small-internet.ts";
import { iperfServer } from "./iperf.ts";
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
import {
  benchLab,
  clientDown,
  clientUp,
  HIGGS,
  inviteFor,
  PROCESS,
  processIn,
  startNode,
  startServer,
  WEB_ADDRESS,
} from "./network.ts";
import { blackoutRows, moveRows, upgradeRows } from "./moves.ts";
import { machineText } from "./processes.ts";

const FETCH = `exec 3<>/dev/tcp/${WEB_NAME}/80; printf 'GET / HTTP/1.0\\r\\nHost: ${WEB_NAME}\\r\\n\\r\\n' >&3; head -c 1 <&3 >/dev/null`;
const TIMEOUT_MS = 30_000;
/** Each takes some ten seconds. */
const MOST_MOVES = 5;

const args = benchArguments({ seconds: 1, rounds: 7 });
const signal = benchSignal(1200);
const rows: Row[] = [];
progress(machineText());

// Without IPv6, so that a direct path has two NATs to come through.
await using lab = await benchLab({ homeIpv6: false, cafeIpv6: false }, signal);
await using _iperf = await iperfServer(lab.host("web"));
const laptop = lab.host("laptop");
let named = 0;
let server = await startServer(lab, signal);
let node = await startNode(lab, signal, { invite: await inviteFor(lab, "node", signal) });
if (wants(args, "join")) rows.push(...(await measureJoin()));
await clientUp(lab, signal, { invite: await inviteFor(lab, "client", signal) });
await clientDown(lab, signal);
if (wants(args, "up")) rows.push(...(await measureUp()));
if (wants(args, "direct")) rows.push(...(await upgradeRows(lab, { rounds: args.rounds, fetch: FETCH }, signal)));
if (wants(args, "moves")) rows.push(...(await moveRows(lab, Math.min(args.rounds, MOST_MOVES), signal)));
if (wants(args, "blackout")) rows.push(...(await blackoutRows(lab, Math.min(args.rounds, MOST_MOVES), signal)));
if (wants(args, "recovery")) {
  await clientUp(lab, signal, { flags: ["--paths", "direct,udp-relay,wss"] });
  rows.push(...(await measureRecovery(lab)));
}
printTable(`bench/connect: medians of ${args.rounds}`, rows);

async function measureJoin(): Promise<Row[]> {
  const joins: number[] = [];
  const both: number[] = [];
  for (let i = 0; i < args.rounds; i++) {
    // The server allows five enrolments a minute from one address, and forgets about that when it ends.
    await restartServer();
    joins.push(await joined(["join"]));
    await laptop.execOrThrow([HIGGS, "client", "leave"]);
    both.push(await joined(["up", "--join"]));
    await laptop.execOrThrow([HIGGS, "client", "leave"]);
  }
  progress(`join: ${joins.map(round).join(", ")}; with up: ${both.map(round).join(", ")} ms`);
  return [
    row("client join, enrolled", `${round(median(joins))} ms`),
    atMost("client up --join: enrolled and running", median(both) / 1000, 1, "s"),
  ];
}

/** Each time under another name: the node holds on to the identity that it knows a name by. */
async function joined(verb: readonly string[]): Promise<number> {
  const invite = await inviteFor(lab, "client", signal);
  const argv = [HIGGS, "client", ...verb, invite, "--name", `laptop-${++named}`];
  return await timed(() => laptop.execOrThrow(argv, { timeoutMs: TIMEOUT_MS, signal }));
}

/** Resolves when the node is connected again. */
async function restartServer(): Promise<void> {
  await killed(lab.host("vps"), PROCESS.server, server);
  server = await startServer(lab, signal);
  const until = performance.now() + TIMEOUT_MS;
  while ((await lab.host("home-pc").exec([HIGGS, "node", "status"])).code !== 0) {
    if (performance.now() > until) throw new Error("Cannot measure: the node does not come back to the server.");
  }
}

async function measureUp(): Promise<Row[]> {
  const cold: number[] = [];
  for (let i = 0; i < args.rounds; i++) {
    const script = `${HIGGS} client up >/dev/null && ${FETCH}`;
    cold.push(await timed(() => laptop.execOrThrow(["bash", "-c", script], { timeoutMs: TIMEOUT_MS, signal })));
    await clientDown(lab, signal);
  }
  progress(`client up to first byte: ${cold.map(round).join(", ")} ms`);
  return [
    atMost("client up, cold, enrolled, to the first byte by name through the exit", median(cold) / 1000, 0.8, "s"),
    row("  slowest of them", `${round(percentile(cold, 100) / 1000)} s`),
  ];
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

async function measureRecovery(inLab: Lab): Promise<Row[]> {
  const home = inLab.host("home-pc");
  const vps = inLab.host("vps");
  const nodes = await recoveries("node", async () => {
    await killed(home, PROCESS.node, node);
    const started = performance.now();
    node = await startNode(inLab, signal);
    return started;
  });
  const servers = await recoveries("server", async () => {
    await killed(vps, PROCESS.server, server);
    const started = performance.now();
    server = await startServer(inLab, signal);
    return started;
  });
  const clients = await recoveries("client", async () => {
    process.kill(processIn(laptop, PROCESS.client), "SIGKILL");
    const started = performance.now();
    await clientUp(inLab, signal);
    return started;
  });
  return [
    atMost("node killed -9: start to the first ping through it", median(nodes) / 1000, 1, "s"),
    row("server killed -9: start to the first ping", `${round(median(servers) / 1000)} s`),
    row("client killed -9: up to the first ping", `${round(median(clients) / 1000)} s`),
  ];
}

async function killed(host: LabHost, pattern: RegExp, running: LabProcess): Promise<void> {
  process.kill(processIn(host, pattern), "SIGKILL");
  await running.exited;
}

/** `restart` gives when it started the role again. Times from there to the first reply of a ping that was sent after. */
async function recoveries(what: string, restart: () => Promise<number>): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < Math.min(args.rounds, 5); i++) {
    signal.throwIfAborted();
    await using pinger = await startPinger();
    const started = await restart();
    times.push((await pinger.firstReplyAfter(started)) - started);
  }
  progress(`${what} killed -9: ${times.map(round).join(", ")} ms`);
  return times;
}

interface Pinger extends AsyncDisposable {
  /** On performance.now(). Throws after half a minute. */
  firstReplyAfter(atMs: number): Promise<number>;
}

/** Fifty a second. A reply counts from when its ping was sent, so that one which was under way says nothing. */
async function startPinger(): Promise<Pinger> {
  const replies: number[] = [];
  const ping = await laptop.spawn(["ping", "-n", "-i", "0.02", WEB_ADDRESS], {
    onLine(line) {
      const took = Number(/time=([\d.]+) ms/.exec(line)?.[1] ?? Number.NaN);
      if (Number.isFinite(took)) replies.push(performance.now() - took);
    },
  });
  await ping.waitForLine(/time=/, { signal });
  return {
    async firstReplyAfter(atMs) {
      const until = performance.now() + TIMEOUT_MS;
      for (;;) {
        if (replies.some((sentAt) => sentAt > atMs)) return performance.now();
        if (performance.now() > until) throw new Error("Cannot measure: no ping came through again.");
        await Bun.sleep(2);
      }
    },
    [Symbol.asyncDispose]: () => ping[Symbol.asyncDispose](),
  };
}
