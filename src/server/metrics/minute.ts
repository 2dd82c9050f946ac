// Collects a machine's reports of one minute into the one row that is kept of them.
import type { Metrics } from "../../proto/api-metrics.ts";

/** The figures that are averaged. */
export const AVERAGED = [
  "latency",
  "jitter",
  "packetLoss",
  "cpuUsage",
  "memoryUsage",
  "diskUsage",
  "loadAverage",
] as const;
export type Averaged = (typeof AVERAGED)[number];

export interface MinuteRow extends Readonly<Record<Averaged, number | null>> {
  /** Start of the minute, Unix seconds. */
  readonly at: number;
  readonly samples: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly connections: number;
}

/** What a counter grew by; one that went back was started anew. */
export function growth(before: number | undefined, now: number | undefined): number {
  if (before === undefined || now === undefined) return 0;
  return now >= before ? now - before : now;
}

function figuresOf(metrics: Metrics): Readonly<Record<Averaged, number | undefined>> {
  const { network, system } = metrics;
  return {
    latency: network?.latency,
    jitter: network?.jitter,
    packetLoss: network?.packetLoss,
    cpuUsage: system?.cpuUsage,
    memoryUsage: system?.memoryUsage,
    diskUsage: system?.diskUsage,
    loadAverage: system?.loadAverage,
  };
}

export class Minute {
  readonly at: number;
  readonly #sums = new Map<Averaged, { sum: number; count: number }>();
  #samples = 0;
  #bytesSent = 0;
  #bytesReceived = 0;
  #connections = 0;

  constructor(at: number) {
    this.at = at;
  }

  /** `before`: the machine's report before this one, whose counters these are compared with. */
  add(metrics: Metrics, before: Metrics | null): void {
    this.#samples++;
    for (const [name, value] of Object.entries(figuresOf(metrics)) as [Averaged, number | undefined][]) {
      if (value === undefined) continue;
      const { sum, count } = this.#sums.get(name) ?? { sum: 0, count: 0 };
      this.#sums.set(name, { sum: sum + value, count: count + 1 });
    }
    const [earlier, now] = [before?.wireguard?.bytes, metrics.wireguard?.bytes];
    this.#bytesSent += growth(earlier?.sent, now?.sent);
    this.#bytesReceived += growth(earlier?.received, now?.received);
    this.#connections = Math.max(this.#connections, metrics.connections?.active ?? 0);
  }

  row(): MinuteRow {
    const average = (name: Averaged): number | null => {
      const found = this.#sums.get(name);
      return found === undefined ? null : found.sum / found.count;
    };
    return {
      at: this.at,
      samples: this.#samples,
      latency: average("latency"),
      jitter: average("jitter"),
      packetLoss: average("packetLoss"),
      cpuUsage: average("cpuUsage"),
      memoryUsage: average("memoryUsage"),
      diskUsage: average("diskUsage"),
      loadAverage: average("loadAverage"),
      bytesSent: this.#bytesSent,
      bytesReceived: this.#bytesReceived,
      connections: this.#connections,
    };
  }
}
