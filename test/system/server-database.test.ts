// The server's database where it is damaged, used by others, or put back from a copy.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { copyFile, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createClient } from "@libsql/client";
import { silentLogger } from "../../src/base/log.ts";
import { parseInvite } from "../../src/proto/invite.ts";
import { knownIdentity, openServerState, type ServerState } from "../../src/server/first-start.ts";
import { restoreDatabase } from "../../src/server/restore.ts";
import { codeOf, enrolMachine, newcomer, recordOf, register, startServer, temporaryDir } from "./server-support.ts";

let stateDir: string;
beforeEach(async () => {
  stateDir = await temporaryDir();
});
afterEach(async () => {
  await rm(stateDir, { recursive: true, force: true });
});

function openState(dir = stateDir): Promise<ServerState> {
  const tls = { kind: "self", hosts: ["127.0.0.1"] } as const;
  return openServerState({ stateDir: dir, databaseUrl: null, tls, networkRange: null, log: silentLogger });
}

/** Starts and stops once, so that there is something to come back to. */
async function used(): Promise<void> {
  const server = await startServer({ stateDir, keepState: true });
  await enrolMachine(server, "node", "known");
  await server[Symbol.asyncDispose]();
}

describe("a later start", () => {
  test("finds a text that is no UTF-8, on which the driver would end the process, and an end that was cut off", async () => {
    await used();
    const db = join(stateDir, "higgs.db");
    const bytes = await readFile(db);
    const broken = Buffer.from(bytes);
    let count = 0;
    for (let at = broken.indexOf("0.0.0-test"); at >= 0; at = broken.indexOf("0.0.0-test", at + 1), count++) {
      broken[at + 1] = 0xc3;
    }
    expect(count).toBeGreaterThan(0);
    await writeFile(db, broken);
    expect(await codeOf(openState())).toBe("database-corrupt");
    await writeFile(db, bytes.subarray(0, -100));
    expect(await codeOf(openState())).toBe("database-corrupt");
    await writeFile(db, bytes);
    expect(await codeOf(openState().then(({ database }) => database[Symbol.asyncDispose]()))).toBe("done");
  });

  test("refuses a machine's row that its own signed record contradicts", async () => {
    const server = await startServer({ stateDir, keepState: true });
    const node = await enrolMachine(server, "node", "known");
    await server[Symbol.asyncDispose]();
    let client = createClient({ url: `file:${join(stateDir, "higgs.db")}` });
    const { bytes, signatures } = recordOf(node, 1n);
    await client.execute({
      sql: "INSERT INTO records VALUES (?, '1', ?, ?, 0)",
      args: [node.id, bytes, JSON.stringify(signatures)],
    });
    client.close();
    await (await startServer({ stateDir, keepState: true }))[Symbol.asyncDispose](); // as it is, it does
    client = createClient({ url: `file:${join(stateDir, "higgs.db")}` });
    await client.execute("UPDATE machines SET identity = iif(identity LIKE 'A%', 'B', 'A') || substr(identity, 2)");
    client.close();
    expect(await codeOf(startServer({ stateDir, keepState: true }))).toBe("database-corrupt");
  });

  test("calls a database damaged in which a list is no list", async () => {
    await used();
    const client = createClient({ url: `file:${join(stateDir, "higgs.db")}` });
    await client.execute("UPDATE machines SET tags = '[\"a'");
    client.close();
    expect(await codeOf(startServer({ stateDir, keepState: true }))).toBe("database-corrupt");
  });

  test("has in its file what was acknowledged, whoever takes the log away", async () => {
    await using server = await startServer({ stateDir });
    await enrolMachine(server, "node", "last");
    const copy = join(stateDir, "copy.db");
    await copyFile(join(stateDir, "higgs.db"), copy);
    const client = createClient({ url: `file:${copy}` });
    expect((await client.execute("SELECT name FROM machines")).rows.map((row) => row.name)).toEqual(["last"]);
    client.close();
  });
});

test("a running server keeps every other program out of its database: no reading, no writing, no checkpoint", async () => {
  await using server = await startServer({ stateDir });
  await enrolMachine(server, "node", "kept");
  const url = `file:${join(stateDir, "higgs.db")}`;
  const tried = ["SELECT name FROM machines", "UPDATE machines SET name = 'x'", "PRAGMA wal_checkpoint(TRUNCATE)"];
  const program = `
    const { createClient } = await import("@libsql/client");
    for (const sql of ${JSON.stringify(tried)}) {
      const client = createClient({ url: ${JSON.stringify(url)}, concurrency: 1, timeout: 50 });
      console.log(await client.execute(sql).then((done) => JSON.stringify(done.rows), ({ code }) => code));
    }
    const memory = createClient({ url: ":memory:" });
    console.log((await memory.execute("SELECT sqlite_version() AS version")).rows[0].version);`;
  const child = Bun.spawn([process.execPath, "-e", program], { cwd: join(import.meta.dir, "../.."), stdout: "pipe" });
  const [version, ...said] = (await child.stdout.text()).trim().split("\n").toReversed();
  console.log(`SQLite ${version}`);
  expect(said).toEqual(tried.map(() => "SQLITE_BUSY"));
  await enrolMachine(server, "node", "later");
  expect(server.server.machines().map((machine) => machine.name as string)).toEqual(["kept", "later"]);
});

describe("restoreDatabase()", () => {
  test("takes a copy of this network only, keeps what was there, and makes no used invite good again", async () => {
    const server = await startServer({ stateDir, keepState: true });
    await enrolMachine(server, "node", "kept");
    const open = await server.server.invite({ role: "node" });
    const copy = join(stateDir, "copy.db");
    await server.server.backup(copy);
    await enrolMachine(server, "node", "later");
    await server[Symbol.asyncDispose]();
    const other = await openState(join(stateDir, "other"));
    await other.database[Symbol.asyncDispose]();
    const target = join(stateDir, "higgs.db");
    const before = await readFile(target);
    const restore = async (from: string) =>
      restoreDatabase(from, target, { identity: await knownIdentity(stateDir), nowMs: 0, log: silentLogger });
    expect(await codeOf(restore(join(stateDir, "other/higgs.db")))).toBe("identity-mismatch");
    expect(await codeOf(restore(join(stateDir, "network.key")))).toBe("database-corrupt");
    expect(await codeOf(restore(join(stateDir, "nothing")))).toBe("restore-refused");
    expect(await readFile(target)).toEqual(before);
    expect(await restore(copy)).toMatchObject({ machines: 1, asidePath: `${target}.before-19700101T000000Z` });
    expect(await readFile(`${target}.before-19700101T000000Z`)).toEqual(before);
    await using again = await startServer({ stateDir });
    expect(again.server.machines().map((machine) => machine.name as string)).toEqual(["kept"]);
    expect((await register(again, parseInvite(open.text), newcomer())).body.code).toBe("invite-revoked");
  });
});
