// What changed who is in the network, kept in the database with the change itself.
import { desc, lt } from "drizzle-orm";
import type { MachineId } from "../proto/keys.ts";
import type { Database, Queries } from "./db/open.ts";
import { audit } from "./db/schema.ts";

export type AuditEvent =
  | "database-restored"
  | "invite-created"
  | "invite-revoked"
  | "machine-enrolled"
  | "machine-left"
  | "machine-renamed"
  | "machine-revoked"
  | "machine-tagged";

export interface AuditEntry {
  readonly at: number;
  readonly event: string;
  readonly machine: MachineId | null;
  readonly detail: Readonly<Record<string, unknown>>;
}

/** A year of a busy network; the oldest go first. */
const MOST_ENTRIES = 50_000;

/** Inside the transaction of the change. `detail` never holds a secret. */
export async function recordAudit(
  queries: Queries,
  entry: {
    readonly event: AuditEvent;
    readonly machine: MachineId | null;
    readonly detail: Readonly<Record<string, unknown>>;
  },
): Promise<void> {
  await queries
    .insert(audit)
    .values({ at: Date.now(), event: entry.event, machineId: entry.machine, detail: entry.detail });
}

/** Newest first. */
export async function readAudit(database: Database, limit: number): Promise<readonly AuditEntry[]> {
  const rows = await database.read((queries) => queries.select().from(audit).orderBy(desc(audit.id)).limit(limit));
  return rows.map((row) => ({ at: row.at, event: row.event, machine: row.machineId, detail: row.detail }));
}

export async function trimAudit(queries: Queries): Promise<void> {
  const newest = await queries.select({ id: audit.id }).from(audit).orderBy(desc(audit.id)).limit(1).get();
  if (newest !== undefined) await queries.delete(audit).where(lt(audit.id, newest.id - MOST_ENTRIES));
}
