// Repeats what must succeed nearly always between two routers, counts, and writes docs/nat-repeat.md.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Run, runs, type Scenario, SCENARIOS } from "../test/lab/punch-runs.ts";
import { projectDir } from "./project.ts";

interface Wanted {
  readonly scenario: Scenario;
  readonly count: number;
  readonly least: number;
  readonly isGood: (run: Run) => boolean;
  readonly good: string;
}

const MOST_PROBES = 2048;
const MOST_A_SECOND = 512;
const isDirect = ({ path }: Run): boolean => path === "direct";
const isPaced = ({ probes, mostInASecond }: Run): boolean => probes <= MOST_PROBES && mostInASecond <= MOST_A_SECOND;
const isGuessed = (run: Run): boolean => isDirect(run) && isPaced(run) && (run.otherPortsMs ?? Infinity) <= 5_000;
const GUESSED = "direct within 5 s of opening other ports, at most 2048 probes, 512 a second";

const WANTED: readonly Wanted[] = [
  { scenario: SCENARIOS.plain, count: 100, least: 99, isGood: isDirect, good: "direct" },
  { scenario: SCENARIOS.poisoned, count: 100, least: 95, isGood: isDirect, good: "direct" },
  { scenario: SCENARIOS.poisonedAndSkewed, count: 20, least: 18, isGood: isDirect, good: "direct" },
  { scenario: SCENARIOS.foreseen, count: 10, least: 9, isGood: isDirect, good: "direct" },
  { scenario: SCENARIOS.guessed, count: 10, least: 9, isGood: isGuessed, good: GUESSED },
  { scenario: SCENARIOS.pool, count: 10, least: 9, isGood: isGuessed, good: GUESSED },
  {
    scenario: SCENARIOS.notGuessed,
    count: 2,
    least: 2,
    isGood: (run) => run.path === "udp-relay" && run.probes < 20,
    good: "udp-relay, and no port guessed",
  },
];

interface Result {
  readonly wanted: Wanted;
  readonly done: readonly Run[];
}

async function repeat(wanted: Wanted): Promise<Result> {
  const done: Run[] = [];
  for await (const run of runs(wanted.scenario, wanted.count)) {
    done.push(run);
    const how = `${run.path} ${run.found ?? ""} ${seconds(run.tookMs)} ${run.probes} probes`;
    console.log(
      `${wanted.isGood(run) ? "ok    " : "WRONG "} ${done.length} of ${wanted.count}, ${wanted.scenario.name}: ${how}`,
    );
  }
  return { wanted, done };
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

function quantile(values: readonly number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;
}

function goodOf({ wanted, done }: Result): number {
  return done.filter(wanted.isGood).length;
}

function rowOf(result: Result): string {
  const { wanted, done } = result;
  const took = done.filter(isDirect).map(({ tookMs }) => tookMs);
  const times = took.length === 0 ? "" : `${seconds(quantile(took, 0.5))}, ${seconds(quantile(took, 0.95))}`;
  const found = ["fresh", "predicted", "guessed"].flatMap((stage) => {
    const count = done.filter((run) => run.found === stage).length;
    return count === 0 ? [] : [`${stage} ${count}`];
  });
  const probes = Math.max(...done.map((run) => run.probes));
  const pace = Math.max(...done.map((run) => run.mostInASecond));
  const cells = [
    wanted.scenario.name,
    wanted.good,
    `${wanted.least} of ${wanted.count}`,
    `${goodOf(result)} of ${done.length}`,
    times,
    found.join(", "),
    `${probes}, ${pace}`,
  ];
  return `| ${cells.join(" | ")} |`;
}

function documentOf(results: readonly Result[]): string {
  const ran = results.reduce((sum, { done }) => sum + done.length, 0);
  const planned = WANTED.reduce((sum, { count }) => sum + count, 0);
  return `# The same pair of routers again and again

Written by \`npm run nat-repeat\`, which needs root: the real binaries in the lab, IPv4 only, 20 ms one way between the two ends. The
home has a port-restricted router unless said otherwise; the other kind is the laptop's. Each run is a new process with a port of its
own, and the routers have forgotten every earlier one. A run that is not direct after 10 s is not direct.

${ran} of ${planned} runs were done.

| routers | good is | at least | good were | time to direct: median, 95 % | by other ports | most ports guessed, most packets in a second |
|---|---|---|---|---|---|---|
${results.map(rowOf).join("\n")}

The times are from the start of the laptop's process. A port counts as guessed when it was sent to once.
`;
}

/** The two long ones have a lab of their own beside that of the others, one after the other. */
const LONG = 100;
const results: Result[] = [];
async function lane(all: readonly Wanted[]): Promise<void> {
  for (const wanted of all) results.push(await repeat(wanted));
}
const long = WANTED.filter(({ count }) => count >= LONG);
await Promise.all([...long.map((wanted) => [wanted]), WANTED.filter(({ count }) => count < LONG)].map(lane));
results.sort((a, b) => WANTED.indexOf(a.wanted) - WANTED.indexOf(b.wanted));
writeFileSync(join(projectDir, "docs/nat-repeat.md"), documentOf(results));
const bad = results.filter(
  (result) => result.done.length < result.wanted.count || goodOf(result) < result.wanted.least,
);
console.log(`${results.length - bad.length} of ${results.length} as wanted; see docs/nat-repeat.md`);
process.exit(bad.length === 0 ? 0 : 1);
