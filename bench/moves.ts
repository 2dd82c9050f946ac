// Moving a tunnel that carries a thousand packets a second each way, and what happens when UDP dies under one: lost packets and silence.
import { resolve } from "node:path";
import type { LabHost } from "../src/lab/host.ts";
import type { Lab } from "../src/lab/lab.ts";
import { transfer } from "./iperf.ts";
import { atMost, median, percentile, progress, round, row, type Row } from "./lib.ts";
import { clientDown, clientUp, HIGGS, pathKind, untilPath, WEB_ADDRESS } from "./network.ts";
import type { StreamResult } from "./stream.program.ts";

const ROOT_DIR = resolve(import.meta.dir, "..");
const STREAM = resolve(import.meta.dir, "stream.program.ts");
const STREAM_PORT = 7007;
const HOME_ROUTER = "203.0.113.7";
const RELAY_PORTS = "40000-40999";
/** Longer than a search takes that comes by itself. */
const MOVE_MS = 75_000;
const STEADY_MS = 1_000;
const PING_EVERY_MS = 20;

type Kind = "direct" | "udp-relay" | "wss";
type Rule = "direct" | "relay" | "udp";

/** What the laptop does not get out, so that a session stays on the lower path until it may go. */
const BLOCKS: Readonly<Record<Rule, string>> = {
  direct: `ip daddr ${HOME_ROUTER} meta l4proto udp drop`,
  relay: `udp dport ${RELAY_PORTS} drop`,
  udp: "meta l4proto udp udp dport != 53 drop",
};

interface Move {
  readonly from: Kind;
  readonly to: Kind;
  readonly paths: string;
  readonly blocked: Rule;
}

const MOVES: readonly Move[] = [
  { from: "wss", to: "udp-relay", paths: "udp-relay,wss", blocked: "relay" },
  { from: "wss", to: "direct", paths: "direct,wss", blocked: "direct" },
  { from: "udp-relay", to: "direct", paths: "direct,udp-relay,wss", blocked: "direct" },
];

/** The client is down before and after. */
export async function moveRows(lab: Lab, rounds: number, signal: AbortSignal): Promise<Row[]> {
  const web = lab.host("web");
  const rows: Row[] = [];
  for (const move of MOVES) {
    const lost: number[] = [];
    let carried = 0;
    for (let i = 0; i < rounds; i++) {
      signal.throwIfAborted();
      await using _receiver = await program(web, "web", String(STREAM_PORT));
      const { up, down } = await moved(lab, move, signal);
      lost.push(up.sent - up.received + down.sent - down.received);
      carried += up.sent + down.sent;
      progress(`${move.from} → ${move.to}: ${lost.at(-1)} lost of ${up.sent} + ${down.sent}`);
    }
    const what = `${move.from} → ${move.to}: packets lost, the most of ${rounds}, of ${carried} in all`;
    rows.push(atMost(what, Math.max(...lost), 0, ""));
  }
  return rows;
}

async function program(host: LabHost, ...args: readonly string[]) {
  const started = await host.spawn(["bun", "--preload", resolve(ROOT_DIR, "scripts/preload.ts"), STREAM, ...args]);
  await started.waitForLine(/^ready$/);
  return started;
}

async function moved(lab: Lab, { from, to, paths, blocked }: Move, signal: AbortSignal): Promise<StreamResult> {
  const laptop = lab.host("laptop");
  await block(laptop, blocked);
  await clientUp(lab, signal, { flags: ["--paths", paths] });
  await untilPath(laptop, from, signal);
  const stream = await program(laptop, "laptop", WEB_ADDRESS, String(STREAM_PORT));
  await using _stream = stream;
  await Bun.sleep(STEADY_MS);
  await unblock(laptop);
  // What changes in the network makes the ends search at once; without it they would within a minute.
  await laptop.execOrThrow(["ip", "address", "add", "192.168.7.222/24", "dev", "eth0"]);
  const until = performance.now() + MOVE_MS;
  while ((await pathKind(laptop)) !== to) {
    signal.throwIfAborted();
    if (performance.now() > until) throw new Error(`Cannot measure: no move from ${from} to ${to}.`);
    await Bun.sleep(50);
  }
  await Bun.sleep(STEADY_MS);
  stream.kill("SIGINT");
  const line = await stream.waitForLine(/^result /, { timeoutMs: 15_000, signal });
  await laptop.execOrThrow(["ip", "address", "delete", "192.168.7.222/24", "dev", "eth0"]);
  await clientDown(lab, signal);
  return JSON.parse(line.slice("result ".length)) as StreamResult;
}

async function block(host: LabHost, rule: Rule): Promise<void> {
  const chain = `chain out {\n    type filter hook output priority 0\n    ${BLOCKS[rule]}\n  }`;
  await host.execOrThrow(["nft", "-f", "-"], { stdin: `table ip bench {\n  ${chain}\n}\n` });
}

async function unblock(host: LabHost): Promise<void> {
  await host.execOrThrow(["nft", "delete", "table", "ip", "bench"]);
}

/** The client is down before and after. */
export async function blackoutRows(lab: Lab, rounds: number, signal: AbortSignal): Promise<Row[]> {
  const rows: Row[] = [];
  for (const router of ["cafe-router", "home-router"]) {
    const gaps: number[] = [];
    for (let i = 0; i < rounds; i++) {
      signal.throwIfAborted();
      gaps.push(await blackout(lab, lab.host(router), signal));
      progress(`UDP dies at the ${router} under a transfer: ${round(gaps.at(-1) ?? 0)} s`);
    }
    const what = `UDP dies at the ${router} under a direct transfer: longest gap of pings, median of ${rounds}`;
    rows.push(atMost(what, median(gaps), 1, "s"), row("  the longest of them", `${round(Math.max(...gaps))} s`));
  }
  return rows;
}

/** Seconds. */
async function blackout(lab: Lab, router: LabHost, signal: AbortSignal): Promise<number> {
  const laptop = lab.host("laptop");
  await clientUp(lab, signal, { flags: ["--paths", "direct,udp-relay,wss"] });
  await untilPath(laptop, "direct", signal);
  const replies: number[] = [];
  await using ping = await laptop.spawn(["ping", "-n", "-i", "0.1", "-W", "1", WEB_ADDRESS], {
    onLine: (line) => void (line.includes("bytes from") && replies.push(performance.now())),
  });
  const busy = transfer(laptop, { direction: "down", seconds: 6, watch: {}, signal });
  await Bun.sleep(2_000);
  const stdin =
    "table ip cut {\n  chain forward {\n    type filter hook forward priority -10\n    meta l4proto udp drop\n  }\n}\n";
  await router.execOrThrow(["nft", "-f", "-"], { stdin });
  const cutAt = performance.now();
  await busy; // and it completes
  ping.kill("SIGINT");
  await router.execOrThrow(["nft", "delete", "table", "ip", "cut"]);
  await clientDown(lab, signal);
  const after = replies.filter((at, i) => (replies[i + 1] ?? at) >= cutAt);
  const gaps = after.slice(1).map((at, i) => at - (after[i] ?? at));
  if (gaps.length < 10) throw new Error("Cannot measure: no pings came through after UDP had died.");
  return Math.max(...gaps) / 1000;
}

/** The client is down before and after. Seconds from the first byte through the exit to a direct path. */
export async function upgradeRows(
  lab: Lab,
  options: { readonly rounds: number; readonly fetch: string },
  signal: AbortSignal,
): Promise<Row[]> {
  const laptop = lab.host("laptop");
  const times: number[] = [];
  for (let i = 0; i < options.rounds; i++) {
    signal.throwIfAborted();
    await laptop.execOrThrow(["bash", "-c", `${HIGGS} client up >/dev/null && ${options.fetch}`], { signal });
    const firstByteAt = Date.now();
    await untilPath(laptop, "direct", signal, PING_EVERY_MS);
    const status = JSON.parse(await laptop.execOrThrow([HIGGS, "client", "status", "--json"])) as {
      path: { since: string };
    };
    times.push(Math.max(0, Date.parse(status.path.since) - firstByteAt) / 1000);
    await clientDown(lab, signal);
  }
  progress(`direct after the first byte: ${times.map(round).join(", ")} s`);
  return [
    atMost(
      `first byte to the direct path, median of ${options.rounds} (0: it was direct already)`,
      median(times),
      2,
      "s",
    ),
    row("  slowest of them", `${round(percentile(times, 100))} s`),
  ];
}
