// The enrolled machines in memory, as the database has them: what every request and every delta is decided from.
import { eq, isNull } from "drizzle-orm";
import type { MachineName } from "../base/hostname.ts";
import type { IpAddress } from "../base/ip.ts";
import type { IdentityKey, MachineId, WireGuardKey } from "../proto/keys.ts";
import { type MachineRecord, openRecord, type SignedRecord } from "../proto/record.ts";
import type { Role } from "../proto/role.ts";
import { databaseCorrupt } from "./db/errors.ts";
import type { Database, Queries } from "./db/open.ts";
import { machines, records } from "./db/schema.ts";

export interface Machine {
  readonly id: MachineId;
  readonly name: MachineName;
  readonly role: Role;
  readonly tags: readonly string[];
  readonly identity: IdentityKey;
  readonly wireGuard: WireGuardKey;
  readonly ipv4: IpAddress;
  readonly ipv6: IpAddress;
  readonly version: string;
  readonly platform: string;
  readonly createdAt: number;
  readonly lastSeenAt: number | null;
  /** Null until the machine has introduced itself; until then nobody is shown it. */
  readonly record: { readonly signed: SignedRecord; readonly opened: MachineRecord } | null;
}

type MachineRow = typeof machines.$inferSelect;

export function machineFromRow(row: MachineRow, record: Machine["record"]): Machine {
  const { id, name, role, tags, identity, wireGuard, ipv4, ipv6, version, platform, createdAt, lastSeenAt } = row;
  return { id, name, role, tags, identity, wireGuard, ipv4, ipv6, version, platform, createdAt, lastSeenAt, record };
}

/** Holds no revoked machine. Each entry is frozen; a change is a new entry. */
export class Directory {
  readonly #byId = new Map<MachineId, Machine>();
  readonly #byName = new Map<MachineName, Machine>();

  get size(): number {
    return this.#byId.size;
  }

  get(id: MachineId): Machine | null {
    return this.#byId.get(id) ?? null;
  }

  named(name: string): Machine | null {
    return this.#byName.get(name as MachineName) ?? null;
  }

  all(): Iterable<Machine> {
    return this.#byId.values();
  }

  set(machine: Machine): void {
    const before = this.#byId.get(machine.id);
    if (before !== undefined && before.name !== machine.name) this.#byName.delete(before.name);
    this.#byId.set(machine.id, machine);
    this.#byName.set(machine.name, machine);
  }

  /** Changes what is there; false when the machine has gone meanwhile. */
  update(id: MachineId, change: Partial<Omit<Machine, "id">>): boolean {
    const machine = this.#byId.get(id);
    if (machine === undefined) return false;
    this.set({ ...machine, ...change });
    return true;
  }

  remove(id: MachineId): void {
    const machine = this.#byId.get(id);
    if (machine === undefined) return;
    this.#byId.delete(id);
    if (this.#byName.get(machine.name)?.id === id) this.#byName.delete(machine.name);
  }
}

/**
 * A stored record that does not open any more is left out: its machine sends a new one when it connects. One that opens was signed by
 * the machine whose row it is; throws DatabaseError `database-corrupt` where that row says something else.
 */
export async function loadDirectory(database: Database, onBadRecord: (machine: MachineId) => void): Promise<Directory> {
  const directory = new Directory();
  const rows = await database.read((queries: Queries) =>
    queries
      .select()
      .from(machines)
      .leftJoin(records, eq(records.machineId, machines.id))
      .where(isNull(machines.revokedAt)),
  );
  for (const row of rows) {
    let record: Machine["record"] = null;
    if (row.records !== null) {
      const signed: SignedRecord = { bytes: row.records.bytes, signatures: row.records.signatures };
      try {
        record = { signed, opened: openRecord(signed) };
      } catch {
        onBadRecord(row.machines.id);
      }
      if (record !== null && !isOf(record.opened, row.machines)) throw databaseCorrupt(database.path);
    }
    directory.set(machineFromRow(row.machines, record));
  }
  return directory;
}

/** By what never changes about a machine. */
function isOf(record: MachineRecord, row: MachineRow): boolean {
  const addresses = [row.ipv4, row.ipv6].sort().join();
  return (
    record.identity === row.identity && record.role === row.role && [...record.addresses].sort().join() === addresses
  );
}
