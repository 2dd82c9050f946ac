import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { IpAddress } from "../../../src/base/ip.ts";
import { silentLogger } from "../../../src/base/log.ts";
import type { ConnectionLog, SeenConnection } from "../../../src/net/firewall/connection-log.ts";
import { openConnectionRecord } from "../../../src/node/connection-record.ts";

let dir = "";
beforeEach(async () => {
  dir = join(await mkdtemp(join(tmpdir(), "higgs-record-")), "connections");
});
afterEach(() => rm(join(dir, ".."), { recursive: true }));

const LAPTOP = "10.64.0.2" as IpAddress;
const NOON = Date.parse("2026-11-21T12:00:00Z");
const DAY_MS = 86_400_000;

/** A kernel that remembers what the test says. */
class FakeSeen implements ConnectionLog {
  seen: SeenConnection[] = [];
  on: boolean | null = null;
  apply(on: boolean): Promise<void> {
    this.on = on;
    return Promise.resolve();
  }
  verify = () => Promise.resolve([]);
  read = () => Promise.resolve(this.seen);
}

function start(days: number, nowMs = NOON) {
  const seen = new FakeSeen();
  const clock = { nowMs };
  const nameOf = (address: IpAddress) => (address === LAPTOP ? "laptop" : null);
  const record = openConnectionRecord({ seen, nameOf, log: silentLogger, now: () => clock.nowMs }, { dir, days });
  return {
    seen,
    clock,
    record,
    async pass() {
      record.rulesTouched();
      await record.idle();
    },
  };
}

const web = (ageS: number): SeenConnection => ({
  client: LAPTOP,
  protocol: "tcp",
  address: "203.0.113.80" as IpAddress,
  port: 443,
  ageS,
});

test("openConnectionRecord() writes each connection once, with its first moment, its client's name and nothing but metadata", async () => {
  const { seen, clock, record, pass } = start(7);
  seen.seen = [web(4), { ...web(2), client: "10.64.0.9" as IpAddress, protocol: "udp", port: 53 }];
  await pass();
  clock.nowMs += 10_000;
  seen.seen = [web(14)]; // the same entry, ten seconds older
  await pass();
  clock.nowMs += 60_000;
  seen.seen = [web(5)]; // forgotten by the kernel meanwhile, and there again
  await pass();
  await record[Symbol.asyncDispose]();
  const path = join(dir, "2026-11-21.jsonl");
  expect(
    (await readFile(path, "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown),
  ).toEqual([
    { at: "2026-11-21T11:59:56.000Z", client: "laptop", protocol: "tcp", to: "203.0.113.80:443" },
    { at: "2026-11-21T11:59:58.000Z", client: "10.64.0.9", protocol: "udp", to: "203.0.113.80:53" },
    { at: "2026-11-21T12:01:05.000Z", client: "laptop", protocol: "tcp", to: "203.0.113.80:443" },
  ]);
  expect([(await stat(dir)).mode & 0o777, (await stat(path)).mode & 0o777]).toEqual([0o700, 0o600]);
});

test("openConnectionRecord() keeps no day longer than was said", async () => {
  const { seen, clock, record, pass } = start(2);
  for (let day = 0; day < 4; day++) {
    seen.seen = [web(0)];
    await pass();
    clock.nowMs += DAY_MS;
  }
  await record.idle();
  expect(await readdir(dir)).toEqual(["2026-11-23.jsonl", "2026-11-24.jsonl"]);
  await writeFile(join(dir, "notes.txt"), "somebody's own");
  seen.seen = [];
  record.setDays(1);
  await record.idle();
  expect(await readdir(dir)).toEqual(["notes.txt"]);
  await record[Symbol.asyncDispose]();
});

test("openConnectionRecord() with no days takes the rules away, and deletes what was kept", async () => {
  const { seen, record, pass } = start(1);
  seen.seen = [web(0)];
  await pass();
  expect([seen.on, existsSync(dir)]).toEqual([true, true]);
  record.setDays(0);
  await record.idle();
  expect([seen.on, existsSync(dir)]).toEqual([false, false]);
  await record[Symbol.asyncDispose]();
});
