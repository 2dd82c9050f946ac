import { afterEach, beforeEach, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { silentLogger } from "../../src/base/log.ts";
import type { Database } from "../../src/server/db/open.ts";
import { metrics as table } from "../../src/server/db/schema.ts";
import { openServerState } from "../../src/server/first-start.ts";
import { HOURS_KEPT_S, MetricsStore, MINUTES_KEPT_S } from "../../src/server/metrics/metrics.ts";
import { codeOf, enrolMachine, startServer, temporaryDir, type TestMachine } from "./server-support.ts";

let stateDir: string;
let database: Database;
let node: TestMachine;
let other: TestMachine;
beforeEach(async () => {
  stateDir = await temporaryDir();
  const server = await startServer({ stateDir, keepState: true });
  [node, other] = [await enrolMachine(server, "node", "n"), await enrolMachine(server, "node", "m")];
  await server[Symbol.asyncDispose]();
  ({ database } = await openServerState({
    stateDir,
    databaseUrl: null,
    tls: { kind: "self", hosts: [] },
    networkRange: null,
    log: silentLogger,
  }));
});
afterEach(async () => {
  await database[Symbol.asyncDispose]();
  await rm(stateDir, { recursive: true, force: true });
});

const HOUR_MS = 3_600_000;
const START_MS = 1_000_000 * HOUR_MS;

test("condense() turns old minutes into hours that say the same, keeps new ones, and drops what is too old", async () => {
  const store = new MetricsStore(database);
  for (let minute = 0; minute < 120; minute++) {
    const at = START_MS + minute * 60_000;
    const system = minute % 2 === 0 ? { cpuUsage: 50 } : {};
    store.report(node.id, { network: { latency: minute }, system, connections: { active: minute } }, at);
  }
  store.report(other.id, { network: { latency: 7 } }, START_MS);
  await store.save({ everything: true });
  const span = { startMs: START_MS, endMs: START_MS + 24 * HOUR_MS };
  const before = [await store.history(node.id, span, "hour"), await store.aggregated(node.id, span)];
  expect(before[0]).toMatchObject([
    { timestamp: START_MS, samples: 60, latency: 29.5, cpuUsage: 50, jitter: null, connections: 59 },
    { timestamp: START_MS + HOUR_MS, samples: 60, latency: 89.5, connections: 119 },
  ]);
  const count = async (): Promise<number> => (await database.read((queries) => queries.select().from(table))).length;
  expect(await count()).toBe(121);

  await store.condense(START_MS + MINUTES_KEPT_S * 1000 + HOUR_MS);
  expect(await count()).toBe(62);
  expect((await store.history(node.id, span, "minute")).length).toBe(60);
  expect([await store.history(node.id, span, "hour"), await store.aggregated(node.id, span)]).toEqual(before);
  expect((await store.history(other.id, span, "hour"))[0]?.latency).toBe(7);

  await store.condense(START_MS + MINUTES_KEPT_S * 1000 + HOUR_MS);
  expect(await count()).toBe(62);
  await store.condense(START_MS + HOURS_KEPT_S * 1000 + 1000);
  expect(await count()).toBe(1);
  await store.condense(START_MS + HOURS_KEPT_S * 1000 + 3 * HOUR_MS);
  expect(await count()).toBe(0);
});

test("save() writes minutes that are over, once, and all of them in one transaction", async () => {
  const store = new MetricsStore(database);
  store.report(node.id, { network: { latency: 1 } }, START_MS);
  await store.save({ nowMs: START_MS + 59_000 });
  const rows = () => database.read((queries) => queries.select().from(table));
  expect(await rows()).toEqual([]);
  await store.save({ nowMs: START_MS + 60_000 });
  await store.save({ nowMs: START_MS + 120_000 });
  expect((await rows()).length).toBe(1);
  store.report(other.id, { network: { latency: 1 } }, START_MS);
  store.forget(other.id);
  await store.save({ everything: true });
  expect((await rows()).length).toBe(1);
});

test("read() and write() keep their order, and a write that fails leaves nothing behind", async () => {
  const seen: string[] = [];
  const failing = database.write(async (queries) => {
    await queries.delete(table);
    seen.push("write");
    throw new Error("on purpose");
  });
  const reading = database.read(async () => {
    seen.push("read");
    return Promise.resolve();
  });
  expect(await codeOf(failing)).toBe("storage-failed");
  await reading;
  expect(seen).toEqual(["write", "read"]);
  await database[Symbol.asyncDispose]();
  expect(await codeOf(database.read(() => Promise.resolve()))).toBe("stopping");
});
