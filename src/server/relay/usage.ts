// How much was relayed for each machine, by the day: counted in memory, and kept in the database with one write a minute at most.
import { gte, lt, sql } from "drizzle-orm";
import type { MachineId } from "../../proto/keys.ts";
import type { Database } from "../db/open.ts";
import { relayUsage as table } from "../db/schema.ts";
import { dayOf, type QuotaPeriod, spanOf } from "./quota.ts";

/** Two months, so that a change of the quota's span finds what it counts. */
export const DAYS_KEPT = 62;
/** Rows in one INSERT; SQLite takes 32 766 parameters. */
const BATCH_ROWS = 500;

/** Bytes of this month, by the day. */
type Days = Map<number, number>;

export class RelayUsage {
  readonly #database: Database;
  readonly #days = new Map<MachineId, Days>();
  /** What the database does not have yet. */
  #unsaved = new Map<MachineId, Days>();

  constructor(database: Database) {
    this.#database = database;
  }

  add(machine: MachineId, bytes: number, nowMs: number = Date.now()): void {
    if (bytes <= 0) return;
    const day = dayOf(nowMs);
    for (const all of [this.#days, this.#unsaved]) addTo(all, { machine, day, bytes });
  }

  /** What was relayed for the machine in the span that is running: what it sent, and what was sent to it. */
  of(machine: MachineId, period: QuotaPeriod, nowMs: number = Date.now()): number {
    const days = this.#days.get(machine);
    if (days === undefined) return 0;
    const { firstDay } = spanOf(period, nowMs);
    let sum = 0;
    for (const [day, bytes] of days) if (day >= firstDay) sum += bytes;
    return sum;
  }

  forget(machine: MachineId): void {
    this.#days.delete(machine);
    this.#unsaved.delete(machine);
  }

  async save(): Promise<void> {
    const due = this.#unsaved;
    if (due.size === 0) return;
    this.#unsaved = new Map();
    const rows = [...due].flatMap(([machineId, days]) => [...days].map(([day, bytes]) => ({ machineId, day, bytes })));
    try {
      await this.#database.write(async (queries) => {
        for (let from = 0; from < rows.length; from += BATCH_ROWS) {
          // Added, not set: several servers may share the database.
          await queries
            .insert(table)
            .values(rows.slice(from, from + BATCH_ROWS))
            .onConflictDoUpdate({
              target: [table.machineId, table.day],
              set: { bytes: sql`${table.bytes} + excluded.bytes` },
            });
        }
      });
    } catch (thrown) {
      for (const { machineId, day, bytes } of rows) addTo(this.#unsaved, { machine: machineId, day, bytes });
      throw thrown;
    }
  }

  /** Drops what no span can count any more; call it every hour. */
  async condense(nowMs: number = Date.now()): Promise<void> {
    const { firstDay } = spanOf("month", nowMs);
    for (const [machine, days] of this.#days) {
      for (const day of days.keys()) if (day < firstDay) days.delete(day);
      if (days.size === 0) this.#days.delete(machine);
    }
    await this.#database.write((queries) => queries.delete(table).where(lt(table.day, dayOf(nowMs) - DAYS_KEPT)));
  }

  async load(nowMs: number = Date.now()): Promise<void> {
    const { firstDay } = spanOf("month", nowMs);
    const rows = await this.#database.read((queries) => queries.select().from(table).where(gte(table.day, firstDay)));
    for (const { machineId, day, bytes } of rows) addTo(this.#days, { machine: machineId, day, bytes });
  }
}

function addTo(
  all: Map<MachineId, Days>,
  one: { readonly machine: MachineId; readonly day: number; readonly bytes: number },
): void {
  const days = all.get(one.machine) ?? new Map<number, number>();
  days.set(one.day, (days.get(one.day) ?? 0) + one.bytes);
  all.set(one.machine, days);
}

export async function loadRelayUsage(database: Database): Promise<RelayUsage> {
  const usage = new RelayUsage(database);
  await usage.load();
  return usage;
}
