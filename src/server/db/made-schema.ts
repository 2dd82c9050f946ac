// Whether a database has the tables and indexes that this program's own SQL makes, word for word: SQLite's check does not read the words.
import { type Client, createClient } from "@libsql/client";
import { MIGRATIONS, migrate } from "./migrate.ts";

/**
 * False where something of ours is missing or otherwise; what somebody else added does not matter. One of another version is not judged:
 * its tables are those of its time.
 */
export async function hasMadeSchema(client: Client): Promise<boolean> {
  const { rows } = await client.execute("PRAGMA user_version");
  if (rows[0]?.[0] !== MIGRATIONS.length) return true;
  const fresh = createClient({ url: ":memory:", concurrency: 1 });
  try {
    await migrate(fresh, { path: ":memory:", isFile: false });
    const found = await wordsOf(client);
    return [...(await wordsOf(fresh))].every((words) => found.has(words));
  } finally {
    fresh.close();
  }
}

async function wordsOf(client: Client): Promise<ReadonlySet<string>> {
  const { rows } = await client.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL");
  return new Set(rows.map(({ type, name, tbl_name: table, sql }) => JSON.stringify([type, name, table, sql])));
}
