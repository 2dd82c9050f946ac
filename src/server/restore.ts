// Puts a copy of the database in the place of the one that is there, which is kept beside it.
import { lstat, readFile, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { count, desc, isNull } from "drizzle-orm";
import { errorText, HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { syncDir, writeSecretFile } from "../net/secret-file.ts";
import type { IdentityKey } from "../proto/keys.ts";
import { recordAudit } from "./audit.ts";
import { type Database, openDatabase } from "./db/open.ts";
import { audit, invites, machines } from "./db/schema.ts";
import { belongsTo, networkRow } from "./network.ts";

export class RestoreRefused extends HiggsError {
  override readonly name = "RestoreRefused";
}

export interface Restored {
  readonly machines: number;
  /** When the last thing happened that the copy knows of; null where it knows of none. */
  readonly asOf: number | null;
  /** Where the database lies now that was there before; null where there was none. */
  readonly asidePath: string | null;
}

/** SQLite's own files beside a database: one that is left would be taken for the new file's. */
const BESIDE = ["", "-wal", "-shm", "-journal"] as const;

/**
 * Nobody may have either database open. The copy is judged before anything is moved: whole, of this identity, and not newer than this
 * program; an older one gets what it lacks. Killed at any moment, it leaves the old database, the new one, or none, which a server
 * refuses to start from; then it is to be done again.
 * Throws RestoreRefused `restore-refused`, DatabaseError, NetworkError `identity-mismatch`, or SecretFileError.
 */
export async function restoreDatabase(
  copyPath: string,
  databasePath: string,
  options: { readonly identity: IdentityKey; readonly nowMs: number; readonly log: Logger },
): Promise<Restored> {
  const incoming = `${databasePath}.restoring`;
  for (const end of BESIDE) await removeIfThere(`${incoming}${end}`);
  await writeSecretFile(incoming, await bytesOf(copyPath));
  let found: Pick<Restored, "machines" | "asOf">;
  try {
    await using database = await openDatabase({
      url: `file:${incoming}`,
      mayCreate: false,
      examine: belongsTo(options.identity),
      log: options.log,
    });
    await database.read(networkRow);
    found = await settle(database, options.nowMs);
  } catch (thrown) {
    for (const end of BESIDE) await removeIfThere(`${incoming}${end}`);
    throw thrown;
  }
  const stamp = new Date(options.nowMs).toISOString().replaceAll(/[-:]|\.\d+/g, "");
  const asidePath = `${databasePath}.before-${stamp}`;
  let wasThere = false;
  for (const end of BESIDE) {
    const moved = await renameIfThere(`${databasePath}${end}`, `${asidePath}${end}`);
    if (end === "") wasThere = moved;
  }
  await rename(incoming, databasePath);
  await syncDir(dirname(databasePath));
  return { ...found, asidePath: wasThere ? asidePath : null };
}

/** What was used up since the copy was made is not known any more, so no invite of before is good. */
async function settle(database: Database, nowMs: number): Promise<Pick<Restored, "machines" | "asOf">> {
  return database.write(async (queries) => {
    const [machineRow] = await queries.select({ count: count() }).from(machines).where(isNull(machines.revokedAt));
    const [newest] = await queries.select({ at: audit.at }).from(audit).orderBy(desc(audit.id)).limit(1);
    await queries.update(invites).set({ revokedAt: nowMs }).where(isNull(invites.revokedAt));
    const asOf = newest?.at ?? null;
    await recordAudit(queries, { event: "database-restored", machine: null, detail: { asOf } });
    return { machines: machineRow?.count ?? 0, asOf };
  });
}

async function bytesOf(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (thrown) {
    throw new RestoreRefused(`Cannot restore from "${path}": ${errorText(thrown)}.`, {
      code: "restore-refused",
      remedy: "Name a file that higgs server backup made, and that this command may read.",
      cause: thrown,
    });
  }
}

async function removeIfThere(path: string): Promise<void> {
  await unlink(path).catch((thrown: unknown) => {
    if ((thrown as { code?: string }).code !== "ENOENT") throw thrown;
  });
}

async function renameIfThere(from: string, to: string): Promise<boolean> {
  const isThere = await lstat(from).then(
    () => true,
    () => false,
  );
  if (isThere) await rename(from, to);
  return isThere;
}
