// Brings a database to this program's schema: numbered SQL that is only ever appended to, each applied once, in a transaction of its own.
import type { Client } from "@libsql/client";
import { sha256 } from "@noble/hashes/sha2.js";
import start from "../../../migrations/0001_start.sql" with { type: "text" };
import relayUsage from "../../../migrations/0002_relay_usage.sql" with { type: "text" };
import { toHex, utf8 } from "../../base/bytes.ts";
import { DatabaseError } from "./errors.ts";

export interface Migration {
  readonly version: number;
  readonly sql: string;
}

/** In order, numbered from 1 without gaps. One that was released is never edited: its checksum is in every database. */
export const MIGRATIONS: readonly Migration[] = [
  { version: 1, sql: start },
  { version: 2, sql: relayUsage },
];

/** "higg" in SQLite's application id: another program's database is not taken for ours. */
export const APPLICATION_ID = 0x68696767;

const BOOKKEEPING =
  "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT";

export function newerSchema(path: string, found: number, known: number): DatabaseError {
  return new DatabaseError(
    `Cannot use the database "${path}": its schema is version ${found}, this program knows versions up to ${known}.`,
    {
      code: "database-newer",
      remedy: "Start the newer higgs that wrote it, or put back a backup made with this version. Nothing was changed.",
      detail: { path, found, known },
    },
  );
}

async function applied(client: Client): Promise<Map<number, string>> {
  const table = await client.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'");
  if (table.rows.length === 0) return new Map();
  const result = await client.execute("SELECT version, sha256 FROM migrations ORDER BY version");
  return new Map(result.rows.map((row) => [Number(row.version), typeof row.sha256 === "string" ? row.sha256 : ""]));
}

/** True when the database already holds a schema of ours. */
export async function hasSchema(client: Client): Promise<boolean> {
  return (await applied(client)).size > 0;
}

/**
 * Applies what is missing and returns how many were applied. `isFile`: SQLite's own version number is kept in step, in the same transaction.
 * Throws DatabaseError `database-newer`, or `migration-changed` when what was applied is not what this program carries.
 */
export async function migrate(
  client: Client,
  options: { readonly path: string; readonly isFile: boolean; readonly migrations?: readonly Migration[] },
): Promise<number> {
  const migrations = options.migrations ?? MIGRATIONS;
  const done = await applied(client);
  const newest = Math.max(0, ...done.keys());
  if (newest > migrations.length) throw newerSchema(options.path, newest, migrations.length);
  let count = 0;
  for (const { version, sql } of migrations) {
    const checksum = toHex(sha256(utf8(sql)));
    const known = done.get(version);
    if (known === checksum) continue;
    if (known !== undefined) {
      throw new DatabaseError(
        `Cannot use the database "${options.path}": its schema step ${version} is not this program's.`,
        {
          code: "migration-changed",
          remedy: "Start the higgs that made this database, or put back a backup.",
          detail: { version, found: known, wanted: checksum },
        },
      );
    }
    const transaction = await client.transaction("write");
    try {
      await transaction.execute(BOOKKEEPING);
      await transaction.executeMultiple(sql);
      await transaction.execute({
        sql: "INSERT INTO migrations (version, sha256, applied_at) VALUES (?, ?, ?)",
        args: [version, checksum, Date.now()],
      });
      if (options.isFile) {
        // PRAGMAs take no parameters; both values are numbers of this file.
        await transaction.execute(`PRAGMA user_version = ${Math.trunc(version)}`);
        await transaction.execute(`PRAGMA application_id = ${APPLICATION_ID}`);
      }
      await transaction.commit();
    } finally {
      transaction.close();
    }
    count++;
  }
  return count;
}
