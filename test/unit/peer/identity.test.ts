import { expect, test } from "bun:test";
import { chmod, stat } from "node:fs/promises";
import { join } from "node:path";
import { machineKeys } from "../../../src/peer/identity.ts";
import { changeSettings, listenPort, mappingNonce, readSettings } from "../../../src/peer/settings.ts";
import { STATE_FILES } from "../../../src/peer/state-dir.ts";
import { identityKeyOf, wireGuardKeyOf } from "../../../src/proto/keys.ts";
import { sampleEnrolment, temporaryState } from "./state.ts";
import { failureOf } from "../support/failure.ts";

test("machineKeys() makes two keys once, for this account's eyes only", async () => {
  await using state = await temporaryState();
  const keys = await machineKeys(state.dir);
  expect(keys.identityKey).toBe(identityKeyOf(keys.identity));
  expect(keys.wireGuardKey).toBe(wireGuardKeyOf(keys.wireGuard));
  expect(await machineKeys(state.dir)).toEqual(keys);
  for (const file of ["identity.key", "wireguard.key"]) {
    expect((await stat(join(state.dir.path, file))).mode & 0o777).toBe(0o600);
  }
});

test("machineKeys() refuses a key file that is cut off, and one that others can read", async () => {
  await using state = await temporaryState();
  await machineKeys(state.dir);
  await state.dir.writeBytes("identity.key", new Uint8Array(31));
  expect(await failureOf(machineKeys(state.dir))).toMatchObject({ code: "state-damaged" });
  await state.dir.writeBytes("identity.key", new Uint8Array(32).fill(7));
  await chmod(join(state.dir.path, "identity.key"), 0o644);
  expect(await failureOf(machineKeys(state.dir))).toMatchObject({ code: "file-too-open" });
});

test("clear() forgets every file of the machine, and keeps what others wrote beside them", async () => {
  await using state = await temporaryState();
  await machineKeys(state.dir);
  await state.dir.writeJson("enrolment.json", sampleEnrolment);
  await Bun.write(join(state.dir.path, "journal.json"), "{}");
  await state.dir.clear();
  await state.dir.clear();
  for (const file of STATE_FILES) expect(await Bun.file(join(state.dir.path, file)).exists()).toBe(false);
  expect(await Bun.file(join(state.dir.path, "journal.json")).exists()).toBe(true);
});

test("listenPort() draws a port of the dynamic range once and keeps it", async () => {
  await using state = await temporaryState();
  const port = await listenPort(state.dir, null);
  expect(port).toBeGreaterThanOrEqual(49_152);
  expect(port).toBeLessThanOrEqual(65_535);
  expect(await listenPort(state.dir, null)).toBe(port);
  expect((await readSettings(state.dir)).port).toBe(port);
});

test("listenPort() takes the port that was asked for, and does not keep it", async () => {
  await using state = await temporaryState();
  expect(await listenPort(state.dir, 51_820)).toBe(51_820);
  expect((await readSettings(state.dir)).port).toBeNull();
});

test("changeSettings() changes one choice and keeps the other", async () => {
  await using state = await temporaryState();
  expect(await readSettings(state.dir)).toEqual({ version: 1, port: null, exit: null, chosen: {}, mappingNonce: null });
  await changeSettings(state.dir, { exit: "home" });
  await changeSettings(state.dir, { port: 50_000 });
  expect(await readSettings(state.dir)).toEqual({
    version: 1,
    port: 50_000,
    exit: "home",
    chosen: {},
    mappingNonce: null,
  });
});

test("mappingNonce() is drawn once, and settings of before have none", async () => {
  await using state = await temporaryState();
  await state.dir.writeJson("settings.json", { version: 1, port: 50_000, exit: "home" });
  const nonce = await mappingNonce(state.dir);
  expect(nonce).toHaveLength(12);
  expect(await mappingNonce(state.dir)).toEqual(nonce);
  expect(await readSettings(state.dir)).toMatchObject({ port: 50_000, exit: "home" });
});
