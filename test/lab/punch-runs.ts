// Two machines behind routers of the test's choosing find each other again and again: what each run took, and by what it was found.
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { cafeHost, smallInternet, type SmallInternetOptions } from "../../src/lab/small-internet.ts";
import { HIGGS, HOME4, invitesOf, PAGE4, startNode, startServer } from "./client-lab.ts";
import { startHiggsLab, until } from "./harness.ts";

/** The other end's router, as the home sees it. */
const CAFE4 = "203.0.113.66";
/** Both lines together: 20 ms one way between the ends. */
const LINE = { delayMs: 10 } as const;

export interface Scenario {
  readonly name: string;
  readonly options: SmallInternetOptions;
  readonly clientFlags?: readonly string[];
  /** Of packets between the two, in percent. */
  readonly lossPercent?: number;
  /** The node stands still for a while when the client begins: up to so long, at random. */
  readonly skewMs?: number;
  /** New flows of a neighbour through the café's router, between the question for the next port and the punch. */
  readonly noiseFlows?: number;
}

export const SCENARIOS = {
  plain: {
    name: "port-restricted² with 20 ms, 2 % loss and up to 500 ms of skew",
    options: { homeLine: LINE, cafeLine: LINE },
    lossPercent: 2,
    skewMs: 500,
  },
  poisoned: {
    name: "routers that take unsolicited packets themselves at both ends, with 20 ms",
    options: { homeLine: LINE, cafeLine: LINE, homeRouter: { acceptInput: true }, cafeRouter: { acceptInput: true } },
  },
  poisonedAndSkewed: {
    name: "the same with up to 200 ms of skew",
    options: { homeLine: LINE, cafeLine: LINE, homeRouter: { acceptInput: true }, cafeRouter: { acceptInput: true } },
    skewMs: 200,
  },
  foreseen: {
    name: "symmetric-sequential and port-restricted, with 3 flows of a neighbour",
    options: { homeLine: LINE, cafeLine: LINE, cafeNat: "symmetric-sequential" },
    noiseFlows: 3,
  },
  guessed: {
    name: "symmetric-random and port-restricted",
    options: { homeLine: LINE, cafeLine: LINE, cafeNat: "symmetric-random" },
  },
  pool: {
    name: "symmetric out of a block of 1000 ports, and port-restricted",
    options: { homeLine: LINE, cafeLine: LINE, cafeNat: "symmetric-pool" },
  },
  notGuessed: {
    name: "symmetric-random and port-restricted, with --no-port-guessing",
    options: { homeLine: LINE, cafeLine: LINE, cafeNat: "symmetric-random" },
    clientFlags: ["--no-port-guessing"],
  },
} as const satisfies Record<string, Scenario>;

export interface Run {
  readonly path: string;
  /** From the start of the client's process. */
  readonly tookMs: number;
  /** From the offer of other ports to the direct path; null when there was none, or no path. */
  readonly otherPortsMs: number | null;
  /** "fresh", "predicted", "guessed", or null for WireGuard's own ports. */
  readonly found: string | null;
  /** Datagrams from the home to ports of the café's router that were sent to once. */
  readonly probes: number;
  /** The most of all datagrams to that router within a second, before the path was found. */
  readonly mostInASecond: number;
  /** The page came by the home. */
  readonly browses: boolean;
}

const TRIES_MS = 10_000;
const FIRST_PORT = 20_001;

/** Each run has a port of its own, so that no router knows of an earlier one, and so long to find a direct path. */
export async function* runs(scenario: Scenario, count: number, triesMs = TRIES_MS): AsyncGenerator<Run> {
  const extraHosts = scenario.noiseFlows === undefined ? [] : [cafeHost("tablet", 3, { ipv6: false })];
  const topology = smallInternet({ homeIpv6: false, cafeIpv6: false, extraHosts, ...scenario.options });
  await using lab = await startHiggsLab(topology);
  const invites = await invitesOf(await startServer(lab));
  const node = await startNode(lab, "--join", invites.node);
  const { lossPercent = 0 } = scenario;
  if (lossPercent > 0) await lose(lab.host("home-router"), lossPercent);
  await lab.host("laptop").execOrThrow([HIGGS, "client", "join", invites.client]);
  for (let i = 0; i < count; i++) yield await run({ lab, node, triesMs }, scenario, FIRST_PORT + i);
}

/** Everything in UDP; what both ends say to the server is lost as well. */
async function lose(router: LabHost, percent: number): Promise<void> {
  const rules = `table ip lossy {
  chain forward {
    type filter hook forward priority filter - 5;
    meta l4proto udp numgen random mod 1000 < ${percent * 10} drop
  }
}`;
  await router.execOrThrow(["nft", "-f", "-"], { stdin: rules });
}

async function run(
  { lab, node, triesMs }: { readonly lab: Lab; readonly node: LabProcess; readonly triesMs: number },
  scenario: Scenario,
  port: number,
): Promise<Run> {
  const laptop = lab.host("laptop");
  // What an earlier run has left in the routers is no part of this one.
  for (const router of ["home-router", "cafe-router"]) await lab.host(router).exec(["conntrack", "-D", "-p", "udp"]);
  await using sniffer = await lab.host("home-router").sniff("wan", `udp and src host ${HOME4} and dst host ${CAFE4}`);
  const startedAt = performance.now();
  let otherPortsAt: number | null = null;
  let directAt: number | null = null;
  const tasks: Promise<void>[] = [];
  const flags = ["--log-level", "debug", "--port", String(port), ...(scenario.clientFlags ?? [])];
  const client: LabProcess = await laptop.spawn([HIGGS, "client", "run", ...flags], {
    onLine(line) {
      if (line.includes('"msg":"setting a peer"') && scenario.skewMs !== undefined && tasks.length === 0) {
        tasks.push(standStill(node, scenario.skewMs * Math.random()));
      }
      if (line.includes('"msg":"trying other ports"')) {
        otherPortsAt ??= performance.now();
        if (scenario.noiseFlows !== undefined) tasks.push(makeNoise(lab, scenario.noiseFlows));
      }
      if (/"path":"direct".*"msg":"path changed"/.test(line)) directAt ??= performance.now();
    },
  });
  const left = (): number => startedAt + triesMs - performance.now();
  while (directAt === null && left() > 0) await Bun.sleep(10);
  await Promise.all(tasks);
  const foundAt = directAt ?? performance.now();
  const browses = await until(async () => (await laptop.exec(["curl", "-sS", "--max-time", "5", PAGE4])).code === 0, {
    timeoutMs: 20_000,
  }).catch(() => false);
  const said = (await laptop.exec([HIGGS, "client", "status", "--json"])).stdout;
  const why = (await laptop.exec([HIGGS, "why", "home-pc", "--json"])).stdout;
  client.kill();
  await client.exited;
  await Promise.all(tasks);
  const sent = sniffer.packets().filter(({ timeMs }) => timeMs <= foundAt + performance.timeOrigin);
  return {
    path: /"path":\{"kind":"([a-z-]+)"/.exec(said)?.[1] ?? "none",
    tookMs: foundAt - startedAt,
    otherPortsMs: directAt === null || otherPortsAt === null ? null : directAt - otherPortsAt,
    found: foundIn(why),
    probes: once(sent.map(({ text }) => text)),
    mostInASecond: mostWithin(sent.map(({ timeMs }) => timeMs)),
    browses,
  };
}

function foundIn(why: string): string | null {
  if (why.includes("Fresh ports at both ends opened")) return "fresh";
  if (why.includes("at the port that it gives out next")) return "predicted";
  return why.includes("was met by guessing") ? "guessed" : null;
}

/** How many destinations were sent to a single time. */
function once(texts: readonly string[]): number {
  const counts = new Map<string, number>();
  for (const text of texts) {
    const to = / > \S+:(\d+)/.exec(text)?.[1] ?? "";
    counts.set(to, (counts.get(to) ?? 0) + 1);
  }
  return [...counts.values()].filter((count) => count === 1).length;
}

function mostWithin(times: readonly number[], windowMs = 1_000): number {
  let most = 0;
  for (let from = 0, to = 0; to < times.length; to++) {
    while ((times[to] ?? 0) - (times[from] ?? 0) >= windowMs) from++;
    most = Math.max(most, to - from + 1);
  }
  return most;
}

async function standStill(node: LabProcess, ms: number): Promise<void> {
  node.kill("SIGSTOP");
  await Bun.sleep(ms);
  node.kill("SIGCONT");
}

/** Each from a socket of its own. */
async function makeNoise(lab: Lab, flows: number): Promise<void> {
  const script = `i=0; while [ $i -lt ${flows} ]; do echo > /dev/udp/203.0.113.80/$((9000 + i)); i=$((i + 1)); done`;
  await lab.host("tablet").exec(["bash", "-c", script]);
}
