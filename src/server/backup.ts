// A copy of the database in a file of its own, which only its owner can read from its first byte on.
import { constants } from "node:fs";
import { open, unlink } from "node:fs/promises";
import { errorText, HiggsError } from "../base/errors.ts";
import type { Database } from "./db/open.ts";

export class BackupRefused extends HiggsError {
  override readonly name = "BackupRefused";
}

/** `path` is absolute. Throws BackupRefused `backup-refused` when the file is there or cannot be made, and what the database throws. */
export async function backupDatabase(database: Database, path: string): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  try {
    await (await open(path, flags, 0o600)).close();
  } catch (thrown) {
    const isThere = (thrown as { code?: string }).code === "EEXIST";
    throw new BackupRefused(
      `Cannot back up to "${path}": ${isThere ? "the file is there already" : errorText(thrown)}.`,
      {
        code: "backup-refused",
        remedy: "Name a file that does not exist yet, in a folder that the server may write to.",
        cause: thrown,
      },
    );
  }
  try {
    await database.copyTo(path); // SQLite takes an empty file for none
  } catch (thrown) {
    await unlink(path).catch(() => undefined); // half a copy is none
    throw thrown;
  }
}
