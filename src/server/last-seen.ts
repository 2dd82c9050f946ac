// When machines were last seen, written to the database together, for those that came or went: never a write for each.
import { eq } from "drizzle-orm";
import type { MachineId } from "../proto/keys.ts";
import type { Database } from "./db/open.ts";
import { machines } from "./db/schema.ts";
import type { Directory } from "./directory.ts";
import type { Presence } from "./presence.ts";

export interface LastSeenDeps {
  readonly database: Database;
  readonly directory: Directory;
  readonly presence: Presence;
}

export class LastSeen {
  readonly #deps: LastSeenDeps;
  /** Machines whose last sign of life is not in the database yet. */
  readonly #unsaved = new Set<MachineId>();

  constructor(deps: LastSeenDeps) {
    this.#deps = deps;
  }

  /** The machine came or went. */
  note(machine: MachineId): void {
    this.#unsaved.add(machine);
  }

  /** For the hourly note that those who stay connected are alive too. */
  noteOnline(): void {
    const { directory, presence } = this.#deps;
    for (const machine of directory.all()) if (presence.of(machine.id).online) this.note(machine.id);
  }

  async save(): Promise<void> {
    const { database, directory, presence } = this.#deps;
    const due = [...this.#unsaved];
    this.#unsaved.clear();
    if (due.length === 0) return;
    await database.write(async (queries) => {
      for (const id of due) {
        const seenAt = presence.of(id).seenAt;
        if (seenAt === null) continue;
        const version = directory.get(id)?.version;
        const seen = { lastSeenAt: seenAt, ...(version === undefined ? {} : { version }) };
        await queries.update(machines).set(seen).where(eq(machines.id, id));
        directory.update(id, { lastSeenAt: seenAt });
      }
    });
  }
}
