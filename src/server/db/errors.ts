// Failures of the database, told apart by what mends them.
import { HiggsError } from "../../base/errors.ts";

export class DatabaseError extends HiggsError {
  override readonly name = "DatabaseError";
}

/** The driver's code (SQLITE_FULL, …), from the error or from what it wraps. */
function driverCode(thrown: unknown): string {
  for (let at = thrown, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if ("code" in at && typeof at.code === "string" && at.code.startsWith("SQLITE")) return at.code;
  }
  return "";
}

/** A list or an object in a column that cannot be read: this program writes none such. */
function isBadJson(thrown: unknown): boolean {
  for (let at = thrown, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if (at instanceof SyntaxError) return true;
  }
  return false;
}

/** The last three: what the program asks is fixed, and was understood when the tables were made. */
const DAMAGE: ReadonlySet<string> = new Set([
  "SQLITE_CORRUPT",
  "SQLITE_NOTADB",
  "SQLITE_ERROR",
  "SQLITE_SCHEMA",
  "SQLITE_MISMATCH",
]);

/** Turns what the driver threw into ours; errors of ours go through as they are. */
export function databaseError(thrown: unknown, path: string): HiggsError {
  if (thrown instanceof HiggsError) return thrown;
  if (isBadJson(thrown)) return databaseCorrupt(path, thrown);
  const code = driverCode(thrown);
  const cause = { cause: thrown, detail: { path, driver: code } };
  if (code.startsWith("SQLITE_FULL")) {
    return new DatabaseError(`Cannot write to the database "${path}": the disk is full.`, {
      code: "storage-full",
      remedy: "Free some space on that disk; the server goes on by itself.",
      ...cause,
    });
  }
  if (code.startsWith("SQLITE_BUSY") || code.startsWith("SQLITE_LOCKED")) return databaseInUse(path, thrown);
  if (DAMAGE.has(code.split("_").slice(0, 2).join("_"))) return databaseCorrupt(path, thrown);
  if (code.startsWith("SQLITE_READONLY") || code.startsWith("SQLITE_CANTOPEN") || code.startsWith("SQLITE_PERM")) {
    return new DatabaseError(`Cannot open the database "${path}": this process may not write there.`, {
      code: "database-not-writable",
      remedy: `Look at the file's owner and mode: ls -l ${path}`,
      ...cause,
    });
  }
  return new DatabaseError(
    `Cannot use the database "${path}": the driver reported ${code === "" ? "an error" : code}.`,
    {
      code: "storage-failed",
      ...cause,
    },
  );
}

export function databaseInUse(path: string, cause?: unknown): DatabaseError {
  return new DatabaseError(`Cannot open the database "${path}": another server is using it.`, {
    code: "database-in-use",
    remedy: "Stop the other higgs server on this machine first.",
    detail: { path },
    cause,
  });
}

export function databaseCorrupt(path: string, cause?: unknown): DatabaseError {
  return new DatabaseError(`Cannot use the database "${path}": it is damaged.`, {
    code: "database-corrupt",
    remedy: "Put a backup in its place, which keeps the damaged file aside: sudo higgs server restore FILE",
    detail: { path },
    cause,
  });
}
