// Runs the test suites, each within a hard time limit, and ends with one line that sums them up.

import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { accessSync, constants, existsSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { filesIn } from "../test/arch/source.ts";
import { buildDir, distDir, projectDir } from "./project.ts";
import { hostTarget } from "./targets.ts";

interface Suite {
  readonly name: string;
  /** For one test that says nothing else. */
  readonly testTimeoutS: number;
  /** For one run; then everything that it started is killed, and it counts as failed. */
  readonly limitS: number;
  /** Set where each file is a run of its own. What the lab builds waits more than it computes, and no two of it share a name. */
  readonly fileByFile?: {
    readonly lanes: number;
    /** Files that look at what all labs of the machine share. */
    readonly alone: readonly string[];
  };
}

const suites: readonly Suite[] = [
  { name: "arch", testTimeoutS: 20, limitS: 120 },
  { name: "unit", testTimeoutS: 20, limitS: 300 },
  { name: "system", testTimeoutS: 60, limitS: 600 },
  {
    name: "lab",
    testTimeoutS: 120,
    limitS: 600,
    fileByFile: { lanes: Math.min(4, availableParallelism()), alone: ["test/lab/lab-life.test.ts"] },
  },
];

/** Of what a run prints beside others, its end, in characters. */
const PRINTED_LIMIT = 2_000_000;
/** Of what a failed test said, in the summary. */
const GIST_LINES = 12;
const GIST_WIDTH = 240;
/** How long the rest of its output may take to come after a run has ended and everything of it was killed. */
const LAST_WORDS_MS = 2000;

interface Run {
  readonly name: string;
  readonly passed: number;
  readonly failed: number;
  /** Why it counts as failed although no test said so. */
  readonly trouble?: string;
  /** The tests that failed, for the summary: of a long run people see its end. */
  readonly failures?: readonly Failure[];
}

interface Failure {
  readonly test: string;
  /** What it said, without what was as expected. */
  readonly why: readonly string[];
}

/** The groups of the runs that are under way, which are this process's to end. */
const running = new Set<number>();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => {
    for (const group of running) killGroup(group);
    process.exit(130);
  });
}

const asked = process.argv.slice(2);
const unknown = asked.find((name) => !suites.some((suite) => suite.name === name));
if (unknown !== undefined) {
  console.error(`Cannot run "${unknown}": the suites are ${suites.map(({ name }) => name).join(", ")}`);
  process.exit(2);
}

const runs: Run[] = [];
for (const suite of suites) {
  if (asked.length === 0 || asked.includes(suite.name)) runs.push(...(await runSuite(suite)));
}

console.log("");
for (const { name, passed, failed, trouble, failures } of runs) {
  console.log(
    `${failed === 0 ? "ok    " : "FAILED"} ${name}: ${passed} passed, ${failed} failed${trouble === undefined ? "" : ` (${trouble})`}`,
  );
  for (const { test, why } of failures ?? []) console.log([test, ...why].map((line) => `         ${line}`).join("\n"));
}
const passed = runs.reduce((sum, run) => sum + run.passed, 0);
const failed = runs.reduce((sum, run) => sum + run.failed, 0);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);

async function runSuite(suite: Suite): Promise<Run[]> {
  const files = filesIn(`test/${suite.name}`).filter((path) => path.endsWith(".test.ts"));
  if (files.length === 0) return [notRun(suite.name, `there are no tests in test/${suite.name}`)];
  if (suite.fileByFile === undefined) return [await runFiles(suite.name, files, suite)];
  const prefix = privilegePrefix();
  if (prefix === undefined) return [notRun(suite.name, "it needs root, sudo or user namespaces. Type: sudo npm test")];
  const { lanes, alone } = suite.fileByFile;
  const options = { ...suite, prefix };
  const done = new Map<string, Run>();
  const queue = files.filter((file) => !alone.includes(file));
  const lane = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      done.set(file, await runFiles(file, [file], { ...options, atOnce: true }));
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  for (const file of alone) done.set(file, await runFiles(file, [file], options));
  for (const file of files) {
    const run = done.get(file);
    if (run !== undefined && run.failed > 0) done.set(file, await onceMore(file, run, options));
  }
  return files.map((file) => done.get(file) ?? notRun(file, "it was not run"));
}

/**
 * The lab's tests wait for real programs on a machine that has other work. A file that failed is run a second time, once and alone, and
 * the summary says so: what passes only then is to be looked at, and what fails twice has failed.
 */
async function onceMore(file: string, first: Run, options: Parameters<typeof runFiles>[2]): Promise<Run> {
  const second = await runFiles(file, [file], options);
  if (second.failed > 0) return second;
  return { ...second, trouble: `${first.failed} failed at the first try`, failures: first.failures ?? [] };
}

async function runFiles(
  name: string,
  files: readonly string[],
  options: {
    readonly testTimeoutS: number;
    readonly limitS: number;
    readonly prefix?: readonly string[];
    /** Beside others: what it prints is shown at its end, in one piece. */
    readonly atOnce?: boolean;
  },
): Promise<Run> {
  const isBeside = options.atOnce === true;
  if (!isBeside) console.log(`\n--- ${name}`);
  const reportPath = join(buildDir, "reports", `${name.replaceAll("/", "-")}.${process.pid}.xml`);
  await mkdir(join(buildDir, "reports"), { recursive: true });
  const argv = [
    ...(options.prefix ?? []),
    process.execPath,
    "test",
    `--timeout=${options.testTimeoutS * 1000}`,
    "--reporter=junit",
    `--reporter-outfile=${reportPath}`,
    ...files.map((file) => `./${file}`),
  ];
  const { ended, printed } = await runWithin(options.limitS, argv, isBeside ? "pipe" : "inherit");
  if (isBeside) process.stdout.write(`\n--- ${name}\n${printed}`);
  const report = existsSync(reportPath) ? await readFile(reportPath, "utf8") : "";
  await rm(reportPath, { force: true });

  const counts = { ...countsOf(report), failures: failuresIn(report) };
  if (ended === "limit")
    return { name, ...counts, failed: counts.failed + 1, trouble: `took longer than ${options.limitS} s` };
  if (counts.passed + counts.failed === 0)
    return { name, passed: 0, failed: 1, trouble: `ran no test; exit code ${ended}` };
  if (ended !== 0 && counts.failed === 0) return { name, ...counts, failed: 1, trouble: `exit code ${ended}` };
  return { name, ...counts };
}

/** In a process group of its own, so that what it leaves behind ends with it. */
async function runWithin(
  limitS: number,
  argv: readonly string[],
  output: "inherit" | "pipe",
): Promise<{ readonly ended: number | "limit"; readonly printed: string }> {
  const [command = "", ...args] = argv;
  const child = spawn(command, args, {
    cwd: projectDir,
    detached: true,
    stdio: ["ignore", output, output],
    env: { ...process.env, HIGGS_BIN: join(distDir, hostTarget()?.executable ?? "higgs") },
  });
  const group = child.pid;
  if (group !== undefined) running.add(group);
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => (printed = (printed + text).slice(-PRINTED_LIMIT)));
  }
  const { promise, resolve } = Promise.withResolvers<number | "limit">();
  child.once("error", () => resolve(127));
  child.once("exit", (code) => resolve(code ?? 128));
  const timer = setTimeout(() => resolve("limit"), limitS * 1000);
  const closed = new Promise<void>((done) => void child.once("close", () => done()));
  const ended = await promise;
  clearTimeout(timer);
  if (group !== undefined) {
    killGroup(group);
    running.delete(group);
  }
  await Promise.race([closed, Bun.sleep(LAST_WORDS_MS)]);
  return { ended, printed };
}

function killGroup(group: number): void {
  try {
    process.kill(-group, "SIGKILL");
  } catch {
    // The group is gone: everything in it has ended.
  }
}

/** A test that was skipped did not run, and so did not pass. */
function countsOf(report: string): { passed: number; failed: number } {
  const head = /<testsuites\b[^>]*>/.exec(report)?.[0] ?? "";
  const count = (name: string) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(head)?.[1] ?? 0);
  const failures = count("failures") + count("errors") + count("skipped");
  return { passed: Math.max(0, count("tests") - failures), failed: failures };
}

function failuresIn(report: string): readonly Failure[] {
  const cases = report.matchAll(
    /<testcase name="([^"]*)"[^>]*>\s*<(?:failure|error|skipped)(?:\s+type="[^"]*")?(?:\s+message="([^"]*)")?/g,
  );
  return [...cases].map(([, test = "", message = ""]) => ({ test: unescaped(test), why: gist(unescaped(message)) }));
}

/** Of a comparison, its first line and what differs; of other messages, their beginning. */
function gist(message: string): readonly string[] {
  const [first = "", ...rest] = message.split("\n").filter((line) => line.trim() !== "");
  const different = rest.filter((line) => /^[-+] /.test(line));
  return [first, ...(different.length > 0 ? different : rest)]
    .slice(0, GIST_LINES)
    .map((line) => `  ${line.slice(0, GIST_WIDTH)}`);
}

function unescaped(text: string): string {
  const named: Readonly<Record<string, string>> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&", "#10": "\n" };
  return text.replaceAll(/&(lt|gt|quot|apos|amp|#10);/g, (whole, name: string) => named[name] ?? whole);
}

/** What makes this user root enough for network namespaces, or `undefined`. */
function privilegePrefix(): readonly string[] | undefined {
  if (process.getuid?.() === 0) return [];
  const works = (argv: string[]) => Bun.which(argv[0] ?? "") !== null && Bun.spawnSync(argv).exitCode === 0;
  if (works(["sudo", "-n", "true"])) return ["sudo", "-n", "--preserve-env=HIGGS_BIN,PATH"];
  const namespace = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
  ];
  return canOpenTun() && works([...namespace, "true"]) ? namespace : undefined;
}

function canOpenTun(): boolean {
  try {
    accessSync("/dev/net/tun", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function notRun(name: string, trouble: string): Run {
  return { name, passed: 0, failed: 1, trouble };
}
