// iperf3 and ping in the lab: what went through, how long it took, and the processor time that each process spent on it.
import type { LabHost } from "../src/lab/host.ts";
import type { LabProcess } from "../src/lab/process.ts";
import { WEB_ADDRESS } from "./network.ts";
import { cpuDuring } from "./processes.ts";

export type Direction = "up" | "down";

export interface Transfer {
  readonly mbitPerSecond: number;
  readonly bytes: number;
  /** Seconds per gigabyte (10⁹ bytes), by the process's name. */
  readonly cpuPerGigabyte: Readonly<Record<string, number>>;
}

export async function iperfServer(host: LabHost): Promise<LabProcess> {
  const server = await host.spawn(["iperf3", "-s", "--forceflush"]);
  await server.waitForLine(/Server listening/);
  return server;
}

/** One TCP stream from or to the web server's address. "up" is what the laptop sends. */
export async function transfer(
  from: LabHost,
  options: {
    readonly direction: Direction;
    readonly seconds: number;
    readonly watch: Readonly<Record<string, number>>;
    readonly signal: AbortSignal;
  },
): Promise<Transfer> {
  const { direction, seconds, signal } = options;
  const reverse = direction === "down" ? ["-R"] : [];
  const argv = ["iperf3", "-c", WEB_ADDRESS, "-J", "-t", String(seconds), "--connect-timeout", "5000", ...reverse];
  const timeoutMs = (seconds + 20) * 1000;
  const { result, cpu } = await cpuDuring(options.watch, () => from.execOrThrow(argv, { timeoutMs, signal }));
  const { end } = JSON.parse(result) as { end: { sum_received: { bytes: number; bits_per_second: number } } };
  const { bytes, bits_per_second: bits } = end.sum_received;
  const cpuPerGigabyte = Object.fromEntries(Object.entries(cpu).map(([name, used]) => [name, used / (bytes / 1e9)]));
  return { mbitPerSecond: bits / 1e6, bytes, cpuPerGigabyte };
}

/** Round trips in milliseconds of those pings that were answered. */
export async function pings(
  from: LabHost,
  options: { readonly count: number; readonly signal: AbortSignal },
): Promise<number[]> {
  const argv = ["ping", "-n", "-i", "0.02", "-c", String(options.count), "-W", "2", WEB_ADDRESS];
  const { stdout } = await from.exec(argv, { timeoutMs: options.count * 20 + 15_000, signal: options.signal });
  return [...stdout.matchAll(/time=([\d.]+) ms/g)].map((match) => Number(match[1]));
}
