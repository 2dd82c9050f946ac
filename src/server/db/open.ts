// Opens the server's database: one connection, one writer at a time, and nothing touched that is not ours to touch.
import { constants } from "node:fs";
import { access, open as openFile, readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { type Client, createClient } from "@libsql/client";
import { drizzle } from "drizzle-orm/libsql";
import { SerialQueue } from "../../base/async.ts";
import type { Logger } from "../../base/log.ts";
import type { Service } from "../../base/service.ts";
import { syncDir } from "../../net/secret-file.ts";
import { isDamaged } from "./damage.ts";
import { DatabaseError, databaseCorrupt, databaseError, databaseInUse } from "./errors.ts";
import { HEADER_BYTES, readHeader, readLogHeader } from "./file-header.ts";
import { hasMadeSchema } from "./made-schema.ts";
import { APPLICATION_ID, hasSchema, MIGRATIONS, migrate, newerSchema } from "./migrate.ts";

/** All of drizzle but `transaction`, which `write` opens. */
export type Queries = Omit<ReturnType<typeof connect>, "transaction" | "batch" | "$client">;

export interface Database extends Service {
  /** What was opened, for messages: a path, or the URL without its secrets. */
  readonly path: string;
  /** Runs after everything that was queued before, alone. */
  read<T>(task: (queries: Queries) => Promise<T>): Promise<T>;
  /** The same, in a transaction that is on disk when this resolves, and undone when the task throws. */
  write<T>(task: (queries: Queries) => Promise<T>): Promise<T>;
  /** Copies the database, whole and consistent, into a file that must not exist yet. */
  copyTo(path: string): Promise<void>;
}

export interface OpenOptions {
  /** `file:/path/to.db`, or `libsql://…`. */
  readonly url: string;
  readonly authToken?: string;
  /** False: an absent database is an error, since starting empty would forget every machine and every used invite. */
  readonly mayCreate: boolean;
  /** Looks whether a database that has a schema is the caller's, before anything is written to it; throws when it is not. */
  readonly examine?: (queries: Queries, path: string) => Promise<void>;
  readonly log: Logger;
}

/** How long a second opener waits for the first to let go; the driver blocks the thread meanwhile. */
const BUSY_TIMEOUT_MS = 1000;

/**
 * The files that this process has open. POSIX locks are the process', not the connection's: a plain read of the file, once closed, would
 * take the lock away from the connection that lives, without a word.
 */
const OPEN_HERE = new Set<string>();

function connect(client: Client) {
  return drizzle(client);
}

/** The path of a `file:` URL; null for any other. */
export function databasePath(url: string): string | null {
  if (!url.startsWith("file:")) return null;
  return url.slice("file:".length).replace(/^\/\/(?=\/)/, "");
}

/** Throws DatabaseError; a database that is refused is byte for byte as it was. */
export async function openDatabase(options: OpenOptions): Promise<Database> {
  const filePath = databasePath(options.url);
  if (filePath === null) return open(options, null);
  const key = resolve(filePath);
  if (OPEN_HERE.has(key)) throw databaseInUse(filePath);
  OPEN_HERE.add(key);
  try {
    await inspectFile(filePath, options.mayCreate);
    return await open(options, filePath);
  } catch (thrown) {
    OPEN_HERE.delete(key);
    throw thrown;
  }
}

async function open(options: OpenOptions, filePath: string | null): Promise<Database> {
  const path = filePath ?? options.url.replace(/\?.*$/, "");
  let client: Client;
  try {
    client = createClient({
      url: options.url,
      concurrency: 1, // PRAGMAs hold per connection
      intMode: "number",
      ...(filePath === null ? {} : { timeout: BUSY_TIMEOUT_MS }),
      ...(options.authToken === undefined ? {} : { authToken: options.authToken }),
    });
  } catch (thrown) {
    throw databaseError(thrown, path);
  }
  try {
    if (filePath !== null) await lockFile(client, path);
    const isNew = !(await hasSchema(client));
    if (isNew && !options.mayCreate) throw databaseMissing(path);
    if (!isNew) await options.examine?.(connect(client), path);
    if (filePath !== null) await prepareFile(client);
    const count = await migrate(client, { path, isFile: filePath !== null });
    if (count > 0) {
      // The schema's version then stands in the file itself, where an older program looks before it opens it.
      if (filePath !== null) await client.execute("PRAGMA wal_checkpoint(TRUNCATE)");
      options.log.info({ path, count }, "database schema brought up to date");
    }
  } catch (thrown) {
    const failure = databaseError(thrown, path);
    if (filePath !== null && failure.code !== "database-in-use") await unlock(client);
    client.close();
    throw failure;
  }
  return new OpenDatabase(client, { path, isFile: filePath !== null });
}

function databaseMissing(path: string): DatabaseError {
  return new DatabaseError(
    `Cannot start: this server has an identity, but its database "${path}" is missing or empty.`,
    {
      code: "database-missing",
      remedy: "Put the file back, or restore a backup: sudo higgs server restore FILE",
      detail: { path },
    },
  );
}

/** Looks at a file with plain reads only, and makes an absent one with mode 0600, which the log beside it inherits. */
async function inspectFile(path: string, mayCreate: boolean): Promise<void> {
  let header: Uint8Array;
  let size = 0;
  try {
    const file = await openFile(path, constants.O_RDONLY);
    try {
      const buffer = new Uint8Array(HEADER_BYTES);
      const { bytesRead } = await file.read(buffer, 0, HEADER_BYTES, 0);
      header = buffer.subarray(0, bytesRead);
      ({ size } = await file.stat());
    } finally {
      await file.close();
    }
  } catch (thrown) {
    if (!isAbsent(thrown)) {
      throw new DatabaseError(`Cannot open the database "${path}": it cannot be read.`, {
        code: "database-not-writable",
        remedy: `Look at the file's owner and mode: ls -l ${path}`,
        cause: thrown,
      });
    }
    if (!mayCreate) throw databaseMissing(path);
    await createEmpty(path);
    return;
  }
  if (header.length === 0) {
    if (!mayCreate) throw databaseMissing(path);
    return;
  }
  const log = await readFile(`${path}-wal`).catch((thrown: unknown) => {
    if (isAbsent(thrown)) return new Uint8Array(0);
    throw databaseError(thrown, path);
  });
  const inFile = readHeader(header);
  if (inFile === null) throw databaseCorrupt(path);
  // SQLite takes what lacks of the last page for zeros; only a power cut leaves such an end, and then the log has that page.
  if (log.length === 0 && !(await isThere(`${path}-journal`)) && size % inFile.pageBytes !== 0) {
    throw databaseCorrupt(path);
  }
  const found = readLogHeader(log) ?? inFile;
  if (found.userVersion > MIGRATIONS.length) throw newerSchema(path, found.userVersion, MIGRATIONS.length);
  // Zero: made here, and killed before its first migration was committed.
  if (found.applicationId !== APPLICATION_ID && found.applicationId !== 0) {
    throw new DatabaseError(`Cannot use the database "${path}": it belongs to another program.`, {
      code: "database-foreign",
      remedy: "Name another file with --db.",
      detail: { path, applicationId: found.applicationId },
    });
  }
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

function isAbsent(thrown: unknown): boolean {
  return thrown instanceof Error && "code" in thrown && thrown.code === "ENOENT";
}

async function createEmpty(path: string): Promise<void> {
  const file = await openFile(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  await file.sync();
  await file.close();
  await syncDir(dirname(path));
}

/**
 * EXCLUSIVE keeps every other connection out for as long as this one lives, and comes first, before the file is touched. The driver's
 * SQLite (3.45.1) can lose commits when a second connection makes a checkpoint (mended in 3.51.3): there must be none.
 */
async function lockFile(client: Client, path: string): Promise<void> {
  await client.execute("PRAGMA locking_mode = EXCLUSIVE");
  if ((await isDamaged(client)) || !(await hasMadeSchema(client))) throw databaseCorrupt(path);
}

async function prepareFile(client: Client): Promise<void> {
  await client.execute("PRAGMA journal_mode = WAL");
  // With NORMAL a power cut may take the last commits back, and a used one-time secret with them.
  await client.execute("PRAGMA synchronous = FULL");
  await client.execute("PRAGMA foreign_keys = ON");
  await client.execute("PRAGMA trusted_schema = OFF");
}

/**
 * The driver keeps a closed connection, and its lock, until its statements are collected as garbage. This gives the lock back now, and
 * leaves the whole database in its one file.
 */
async function releaseFile(client: Client): Promise<void> {
  try {
    await client.execute("PRAGMA journal_mode = DELETE");
  } catch {
    // A full disk, most likely: everything that was acknowledged is in the log beside the file, and the next start takes it from there.
  }
  await unlock(client);
}

/** Works while the file has no log; changes nothing in it. */
async function unlock(client: Client): Promise<void> {
  try {
    await client.execute("PRAGMA locking_mode = NORMAL");
    await client.execute("SELECT COUNT(*) FROM sqlite_schema");
  } catch {
    // Whoever has the lock has it, or the file is damaged; the end of the process ends our part of it.
  }
}

class OpenDatabase implements Database {
  readonly path: string;
  readonly #client: Client;
  readonly #isFile: boolean;
  readonly #queries: ReturnType<typeof connect>;
  readonly #queue = new SerialQueue();
  #closed = false;

  constructor(client: Client, file: { readonly path: string; readonly isFile: boolean }) {
    this.#client = client;
    this.#queries = connect(client);
    this.#isFile = file.isFile;
    this.path = file.path;
  }

  read<T>(task: (queries: Queries) => Promise<T>): Promise<T> {
    return this.#alone(() => task(this.#queries));
  }

  write<T>(task: (queries: Queries) => Promise<T>): Promise<T> {
    return this.#alone(async () => {
      const result = await this.#queries.transaction((transaction) => task(transaction as unknown as Queries));
      if (this.#isFile) await this.#foldLog();
      return result;
    });
  }

  /** What was acknowledged is then in the file itself: nothing is lost with the log, by whoever takes that for a leftover. */
  async #foldLog(): Promise<void> {
    try {
      await this.#client.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch {
      // A full disk, most likely: it is in the log all the same, and goes from there to the file with a later write or start.
    }
  }

  copyTo(path: string): Promise<void> {
    return this.#alone(async () => {
      await this.#client.execute({ sql: "VACUUM INTO ?", args: [path] });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#queue.idle();
    if (this.#isFile) await releaseFile(this.#client);
    this.#client.close();
    if (this.#isFile) OPEN_HERE.delete(resolve(this.path));
  }

  #alone<T>(task: () => Promise<T>): Promise<T> {
    if (this.#closed) {
      return Promise.reject(
        new DatabaseError("Cannot use the database: the server is stopping.", { code: "stopping" }),
      );
    }
    return this.#queue.run(async () => {
      try {
        return await task();
      } catch (thrown) {
        throw databaseError(thrown, this.path);
      }
    });
  }
}
