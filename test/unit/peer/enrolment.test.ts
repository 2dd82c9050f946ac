import { expect, test } from "bun:test";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { MachineName } from "../../../src/base/hostname.ts";
import { knownServers, dialList } from "../../../src/peer/enrol.ts";
import { EnrolmentStore, enrolmentSchema, readEnrolment } from "../../../src/peer/enrolment.ts";
import type { Door } from "../../../src/peer/server-door.ts";
import type { IpAddress } from "../../../src/base/ip.ts";
import type { SpkiHash } from "../../../src/proto/keys.ts";
import { sampleEnrolment, slowState, temporaryState } from "./state.ts";
import { failureOf } from "../support/failure.ts";

test("readEnrolment() says how to join where no enrolment is", async () => {
  await using state = await temporaryState();
  expect(await failureOf(readEnrolment(state.dir, "client"))).toMatchObject({
    name: "NotEnrolled",
    code: "not-enrolled",
  });
  const node = await failureOf(readEnrolment(state.dir, "node"));
  expect(node).toMatchObject({ remedy: expect.stringContaining("higgs node join INVITE") as unknown });
});

test("readEnrolment() gives back what was written", async () => {
  await using state = await temporaryState();
  await state.dir.writeJson("enrolment.json", sampleEnrolment);
  expect(await readEnrolment(state.dir, "client")).toEqual(sampleEnrolment);
});

test("readEnrolment() names the file that is damaged, and shows none of it", async () => {
  await using state = await temporaryState();
  await Bun.write(join(state.dir.path, "enrolment.json"), '{"version":1,"network":"secret"');
  await Bun.$`chmod 600 ${join(state.dir.path, "enrolment.json")}`.quiet();
  const thrown = await failureOf(readEnrolment(state.dir, "client"));
  expect(thrown).toMatchObject({ code: "state-damaged" });
  expect(String(thrown)).toContain("enrolment.json");
  expect(String(thrown)).not.toContain("secret");
});

test("enrolmentSchema refuses an enrolment without servers, or of another version", () => {
  expect(enrolmentSchema.safeParse({ ...sampleEnrolment, servers: [] }).success).toBe(false);
  expect(enrolmentSchema.safeParse({ ...sampleEnrolment, version: 2 }).success).toBe(false);
});

test("EnrolmentStore writes only what differs", async () => {
  await using state = await temporaryState();
  const path = join(state.dir.path, "enrolment.json");
  const store = new EnrolmentStore(state.dir, sampleEnrolment);
  await store.update({ name: sampleEnrolment.name });
  expect(await Bun.file(path).exists()).toBe(false);
  await store.update({ name: "desk" as MachineName });
  expect(store.value.name).toBe("desk" as MachineName);
  expect((await readEnrolment(state.dir, "client")).name).toBe("desk" as MachineName);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
});

test("EnrolmentStore leaves the last of two changes on disk, however long the first takes to write", async () => {
  await using state = await temporaryState();
  const { slow, writes } = slowState(state.dir);
  const store = new EnrolmentStore(slow, sampleEnrolment);
  const changes = [store.update({ position: { epoch: 3, seq: 5 } }), store.update({ position: { epoch: 4, seq: 1 } })];
  // The second write, were it under way already, would end first.
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  for (const write of writes.splice(0).reverse()) await write();
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  for (const write of writes.splice(0)) await write();
  await Promise.all(changes);
  expect((await readEnrolment(state.dir, "client")).position).toEqual({ epoch: 4, seq: 1 });
});

const pin = { certPem: "pem", spki: "x" as SpkiHash, selfSigned: true };
const door = {
  server: { host: "vps.example", port: 443 },
  addresses: ["203.0.113.10" as IpAddress],
  pin,
} as unknown as Door;

test("knownServers() puts the server that answered first, with what was proven of it", () => {
  const before = [{ name: "other.example:443", addresses: ["203.0.113.11" as IpAddress], pin: null }];
  expect(knownServers(["other.example:443", "vps.example:443", "new.example:8443"], before, door)).toEqual([
    { name: "vps.example:443", addresses: ["203.0.113.10" as IpAddress], pin },
    { name: "other.example:443", addresses: ["203.0.113.11" as IpAddress], pin: null },
    { name: "new.example:8443", addresses: [], pin: null },
  ]);
});

test("knownServers() keeps at most sixteen, and none that cannot be dialled", () => {
  const names = ["", "a b:443", ...Array.from({ length: 40 }, (_, i) => `s${i}.example:443`)];
  const servers = knownServers(names, [], door);
  expect(servers).toHaveLength(16);
  expect(dialList(servers)).toHaveLength(16);
  expect(servers[0]?.name).toBe("vps.example:443");
});
