// Whether a database is damaged: by SQLite's own check, and in texts, on which the driver would end the whole process.
import type { Client } from "@libsql/client";
import { sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/libsql";

/**
 * Reads everything. Texts are asked for as bytes: of one that is no UTF-8 the driver makes a panic, not an error. That goes for the
 * check's own words too, in which the name of a damaged index may stand.
 */
export async function isDamaged(client: Client): Promise<boolean> {
  const check = await client.execute("SELECT CAST(integrity_check AS BLOB) FROM pragma_integrity_check(1)");
  if (textOf(check.rows[0]?.[0]) !== "ok") return true;
  const schema = await client.execute(
    "SELECT CAST(name AS BLOB), CAST(sql AS BLOB), CAST(type AS BLOB) FROM sqlite_schema WHERE sql IS NOT NULL",
  );
  const tables: string[] = [];
  for (const row of schema.rows) {
    const [name, made, type] = [textOf(row[0]), textOf(row[1]), textOf(row[2])];
    if (name === null || made === null || type === null) return true;
    if (type === "table") tables.push(name);
  }
  for (const table of tables) if (await holdsBrokenText(client, table)) return true;
  return false;
}

async function holdsBrokenText(client: Client, table: string): Promise<boolean> {
  const queries = drizzle(client);
  const columns = await queries.all<{ name: string }>(
    sql`SELECT name FROM pragma_table_info(${table}) WHERE upper(type) NOT IN ('INTEGER', 'REAL', 'BLOB')`,
  );
  for (const { name } of columns) {
    const [column, of] = [sql.identifier(name), sql.identifier(table)];
    const texts = await queries.all<{ text: unknown }>(
      sql`SELECT DISTINCT CAST(${column} AS BLOB) AS text FROM ${of} WHERE ${column} IS NOT NULL`,
    );
    if (texts.some(({ text }) => textOf(text) === null)) return true;
  }
  return false;
}

/** Null for what is no UTF-8. */
function textOf(value: unknown): string | null {
  if (!(value instanceof ArrayBuffer)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(value);
  } catch {
    return null;
  }
}
