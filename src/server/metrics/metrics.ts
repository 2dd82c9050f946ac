// What machines report of themselves: the last report and the running minute in memory, minutes and hours in the database.
import { and, eq, gte, lt, lte, type SQL, sql } from "drizzle-orm";
import type { SQLiteColumn } from "drizzle-orm/sqlite-core";
import type { AggregatedMetrics, Interval, Metrics, MetricsPoint } from "../../proto/api-metrics.ts";
import type { MachineId } from "../../proto/keys.ts";
import type { Database, Queries } from "../db/open.ts";
import { metrics as table } from "../db/schema.ts";
import { Minute } from "./minute.ts";

const MINUTE_S = 60;
const HOUR_S = 3600;
const DAY_S = 86_400;
const SPAN_S: Readonly<Record<Interval, number>> = { minute: MINUTE_S, hour: HOUR_S, day: DAY_S };

/** Minutes are kept for two days, hours for thirty: 2 880 and 720 rows a machine at most. */
export const MINUTES_KEPT_S = 2 * DAY_S;
export const HOURS_KEPT_S = 30 * DAY_S;
/** Rows in one INSERT; SQLite takes 32 766 parameters. */
const BATCH_ROWS = 500;

export interface Span {
  /** Unix milliseconds, inclusive. */
  readonly startMs: number;
  /** Unix milliseconds, exclusive. */
  readonly endMs: number;
}

export class MetricsStore {
  readonly #database: Database;
  readonly #latest = new Map<MachineId, { readonly at: number; readonly metrics: Metrics }>();
  readonly #running = new Map<MachineId, Minute>();
  /** Minutes that are over, and not in the database yet. */
  #full: { readonly machine: MachineId; readonly minute: Minute }[] = [];

  constructor(database: Database) {
    this.#database = database;
  }

  report(machine: MachineId, metrics: Metrics, nowMs: number = Date.now()): void {
    const at = Math.floor(nowMs / 1000 / MINUTE_S) * MINUTE_S;
    let minute = this.#running.get(machine);
    if (minute === undefined || minute.at !== at) {
      if (minute !== undefined) this.#full.push({ machine, minute });
      minute = new Minute(at);
      this.#running.set(machine, minute);
    }
    minute.add(metrics, this.#latest.get(machine)?.metrics ?? null);
    this.#latest.set(machine, { at: nowMs, metrics });
  }

  latest(machine: MachineId): { readonly at: number; readonly metrics: Metrics } | null {
    return this.#latest.get(machine) ?? null;
  }

  forget(machine: MachineId): void {
    this.#latest.delete(machine);
    this.#running.delete(machine);
    this.#full = this.#full.filter((entry) => entry.machine !== machine);
  }

  /** Writes the minutes that are over, in one transaction; `everything`: the running ones too, when the server stops. */
  async save(options: { readonly everything?: boolean; readonly nowMs?: number } = {}): Promise<void> {
    const current = Math.floor((options.nowMs ?? Date.now()) / 1000 / MINUTE_S) * MINUTE_S;
    for (const [machine, minute] of this.#running) {
      if (minute.at === current && options.everything !== true) continue;
      this.#full.push({ machine, minute });
      this.#running.delete(machine);
    }
    const due = this.#full;
    this.#full = [];
    if (due.length === 0) return;
    await this.#database.write(async (queries) => {
      for (let from = 0; from < due.length; from += BATCH_ROWS) {
        const rows = due.slice(from, from + BATCH_ROWS).map(({ machine, minute }) => ({
          machineId: machine,
          spanS: MINUTE_S,
          ...minute.row(),
        }));
        // A server that was restarted within the minute has written its first part already; the second is worth less than the trouble.
        await queries.insert(table).values(rows).onConflictDoNothing();
      }
    });
  }

  /** Turns minutes that are too old into hours, and drops hours that are too old; call it every hour. */
  async condense(nowMs: number = Date.now()): Promise<void> {
    const nowS = Math.floor(nowMs / 1000);
    const before = Math.floor((nowS - MINUTES_KEPT_S) / HOUR_S) * HOUR_S;
    await this.#database.write(async (queries) => {
      const old = and(eq(table.spanS, MINUTE_S), lt(table.at, before));
      await queries.run(sql`
        INSERT OR IGNORE INTO metrics (machine_id, span_s, at, samples, latency, jitter, packet_loss, cpu_usage, memory_usage,
          disk_usage, load_average, bytes_sent, bytes_received, connections)
        SELECT ${table.machineId}, ${HOUR_S}, ${bucket(HOUR_S)} AS bucket, SUM(${table.samples}), ${mean(table.latency)}, ${mean(table.jitter)},
          ${mean(table.packetLoss)}, ${mean(table.cpuUsage)}, ${mean(table.memoryUsage)}, ${mean(table.diskUsage)}, ${mean(table.loadAverage)},
          SUM(${table.bytesSent}), SUM(${table.bytesReceived}), MAX(${table.connections})
        FROM ${table} WHERE ${old} GROUP BY ${table.machineId}, bucket`);
      await queries.delete(table).where(old);
      await queries.delete(table).where(and(eq(table.spanS, HOUR_S), lt(table.at, nowS - HOURS_KEPT_S)));
    });
  }

  /** One point per interval that has any, oldest first. Minutes are there for the last two days only. */
  async history(machine: MachineId, span: Span, interval: Interval): Promise<MetricsPoint[]> {
    const spanS = SPAN_S[interval];
    const rows = await this.#database.read((queries: Queries) =>
      queries
        .select({
          at: sql<number>`${bucket(spanS)}`.as("bucket"),
          samples: sql<number>`SUM(${table.samples})`,
          latency: mean(table.latency),
          jitter: mean(table.jitter),
          packetLoss: mean(table.packetLoss),
          cpuUsage: mean(table.cpuUsage),
          memoryUsage: mean(table.memoryUsage),
          diskUsage: mean(table.diskUsage),
          loadAverage: mean(table.loadAverage),
          bytesSent: sql<number>`SUM(${table.bytesSent})`,
          bytesReceived: sql<number>`SUM(${table.bytesReceived})`,
          connections: sql<number>`MAX(${table.connections})`,
        })
        .from(table)
        .where(and(within(machine, span), lte(table.spanS, spanS)))
        .groupBy(sql`bucket`)
        .orderBy(sql`bucket`),
    );
    return rows.map(({ at, ...point }) => ({ timestamp: at * 1000, ...point }));
  }

  async aggregated(machine: MachineId, span: Span): Promise<AggregatedMetrics> {
    const row = await this.#database.read((queries: Queries) =>
      queries
        .select({
          avgLatency: mean(table.latency),
          avgJitter: mean(table.jitter),
          avgPacketLoss: mean(table.packetLoss),
          avgCpuUsage: mean(table.cpuUsage),
          avgMemoryUsage: mean(table.memoryUsage),
          totalBytesSent: sql<number>`COALESCE(SUM(${table.bytesSent}), 0)`,
          totalBytesReceived: sql<number>`COALESCE(SUM(${table.bytesReceived}), 0)`,
        })
        .from(table)
        .where(within(machine, span))
        .get(),
    );
    return (
      row ?? {
        avgLatency: null,
        avgJitter: null,
        avgPacketLoss: null,
        avgCpuUsage: null,
        avgMemoryUsage: null,
        totalBytesSent: 0,
        totalBytesReceived: 0,
      }
    );
  }
}

function within(machine: MachineId, span: Span): SQL | undefined {
  return and(
    eq(table.machineId, machine),
    gte(table.at, Math.floor(span.startMs / 1000)),
    lt(table.at, Math.ceil(span.endMs / 1000)),
  );
}

/** The start of the interval that a row falls into. The driver binds every number as a REAL, which would not divide as whole numbers do. */
function bucket(spanS: number): SQL<number> {
  const span = sql`CAST(${spanS} AS INTEGER)`;
  return sql<number>`${table.at} / ${span} * ${span}`;
}

/** Weighted by samples; rows without this figure do not count. */
function mean(column: SQLiteColumn): SQL<number | null> {
  return sql<
    number | null
  >`SUM(${column} * ${table.samples}) / SUM(CASE WHEN ${column} IS NULL THEN NULL ELSE ${table.samples} END)`;
}
