// What the benches share: arguments, the signal that ends them, medians, and the table that each of them prints.
import { loadavg } from "node:os";
import { parseArgs } from "node:util";

export interface BenchArguments {
  /** Of each single measurement. */
  readonly seconds: number;
  /** How often each is repeated; the table shows medians. */
  readonly rounds: number;
  /** Parts of the bench to run; empty for all. */
  readonly only: readonly string[];
}

/** `--seconds`, `--rounds` and `--only PART` (more than once for more parts); ends the process with 2 for anything else. */
export function benchArguments(defaults: { readonly seconds: number; readonly rounds: number }): BenchArguments {
  try {
    const { values } = parseArgs({
      options: { seconds: { type: "string" }, rounds: { type: "string" }, only: { type: "string", multiple: true } },
      strict: true,
    });
    return {
      seconds: positive(values.seconds, defaults.seconds),
      rounds: positive(values.rounds, defaults.rounds),
      only: values.only ?? [],
    };
  } catch (thrown) {
    console.error(`${(thrown as Error).message}\nusage: bun bench/… [--seconds N] [--rounds N] [--only PART]…`);
    process.exit(2);
  }
}

function positive(text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (Number.isInteger(value) && value > 0 && value <= 1000) return value;
  throw new Error(`"${text}" is no number from 1 to 1000`);
}

/** Whether the part is wanted. */
export function wants(args: BenchArguments, part: string): boolean {
  return args.only.length === 0 || args.only.includes(part);
}

/** Aborts at the first Ctrl-C or SIGTERM, so that whatever was built is taken away again, and after `mostSeconds` anyway. */
export function benchSignal(mostSeconds: number): AbortSignal {
  const controller = new AbortController();
  const stop = (why: string) => (): void => controller.abort(new Error(why));
  process.once("SIGINT", stop("interrupted"));
  process.once("SIGTERM", stop("interrupted"));
  setTimeout(stop(`gave up after ${mostSeconds} s`), mostSeconds * 1000).unref();
  return controller.signal;
}

/** NaN for none. */
export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

/** Nearest rank for all but the median of an even number, which is the mean of the middle two. NaN for none. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const { length } = sorted;
  if (length === 0) return Number.NaN;
  if (percent === 50 && length % 2 === 0) return ((sorted[length / 2 - 1] ?? 0) + (sorted[length / 2] ?? 0)) / 2;
  const rank = Math.ceil((percent / 100) * length);
  return sorted[Math.min(length, Math.max(1, rank)) - 1] ?? Number.NaN;
}

export interface Row {
  readonly what: string;
  /** As design.md has it; "" for figures without one. */
  readonly target: string;
  readonly measured: string;
  /** Null where there is no target. */
  readonly met: boolean | null;
}

export function row(what: string, measured: string): Row {
  return { what, target: "", measured, met: null };
}

export function atMost(what: string, value: number, limit: number, unit: string): Row {
  return { what, target: `≤ ${limit} ${unit}`.trim(), measured: `${round(value)} ${unit}`.trim(), met: value <= limit };
}

export function atLeast(what: string, value: number, limit: number, unit = ""): Row {
  return { what, target: `≥ ${limit} ${unit}`.trim(), measured: `${round(value)} ${unit}`.trim(), met: value >= limit };
}

/** Three digits that say something. */
export function round(value: number): string {
  if (!Number.isFinite(value)) return "-";
  if (Math.abs(value) >= 100) return value.toFixed(0);
  if (Math.abs(value) >= 10) return value.toFixed(1);
  return value.toFixed(2);
}

/** what | target | measured | met. What others do on the machine meanwhile is part of every figure, so the load is told. */
export function printTable(title: string, rows: readonly Row[]): void {
  const cells = rows.map((one) => [
    one.what,
    one.target,
    one.measured,
    one.met === null ? "" : one.met ? "met" : "NOT MET",
  ]);
  const lines = [["what", "target", "measured", "met"], ...cells];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...lines.map((line) => Bun.stringWidth(line[column] ?? ""))));
  const text = (line: readonly string[]): string =>
    line
      .map((cell, column) => cell + " ".repeat((widths[column] ?? 0) - Bun.stringWidth(cell)))
      .join(" | ")
      .trimEnd();
  console.log(`\n${title} (load ${loadavg()[0]?.toFixed(1) ?? "-"})`);
  for (const [index, line] of lines.entries()) {
    console.log(text(line));
    if (index === 0) console.log(widths.map((width) => "-".repeat(width)).join("-|-"));
  }
}

/** What goes on, on standard error, so that standard output holds tables alone. */
export function progress(text: string): void {
  console.error(`  ${text}`);
}

/** Calls each of the named measurements in turn, `rounds` times over, so that a slow moment of the machine meets them all. */
export async function alternating<T>(
  measurements: Readonly<Record<string, () => Promise<T>>>,
  options: { readonly rounds: number; readonly signal: AbortSignal },
): Promise<Record<string, T[]>> {
  const results: Record<string, T[]> = Object.fromEntries(Object.keys(measurements).map((name) => [name, []]));
  for (let round = 0; round < options.rounds; round++) {
    for (const [name, measure] of Object.entries(measurements)) {
      options.signal.throwIfAborted();
      results[name]?.push(await measure());
    }
  }
  return results;
}
