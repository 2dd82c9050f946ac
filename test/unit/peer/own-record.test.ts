import { expect, test } from "bun:test";
import type { MachineName } from "../../../src/base/hostname.ts";
import type { Cidr } from "../../../src/base/ip.ts";
import { machineKeys } from "../../../src/peer/identity.ts";
import { ownRecord } from "../../../src/peer/own-record.ts";
import type { StateDir } from "../../../src/peer/state-dir.ts";
import { fromBase64, toBase64 } from "../../../src/base/bytes.ts";
import { termsOf } from "../../../src/client/exit-choice.ts";
import { encodeExitTerms, type ExitTerms } from "../../../src/proto/exit-terms.ts";
import { openRecord } from "../../../src/proto/record.ts";
import { ALL4, ALL6 } from "./machines.ts";
import { sampleEnrolment, temporaryState } from "./state.ts";
import { failureOf } from "../support/failure.ts";

const TERMS: ExitTerms = {
  mail: false,
  ports: null,
  closed: [],
  opened: [],
  filtersNames: false,
  logDays: 0,
  isWhole: true,
};

interface Change {
  readonly routes?: readonly Cidr[];
  readonly endpoint?: string;
  readonly terms?: ExitTerms;
  readonly serverSerial?: bigint;
  readonly name?: string;
}

async function record(dir: StateDir, change: Change = {}) {
  const name = (change.name ?? sampleEnrolment.name) as MachineName;
  return ownRecord(dir, {
    enrolment: { ...sampleEnrolment, name },
    keys: await machineKeys(dir),
    offer: {
      routes: change.routes ?? [ALL4],
      endpoint: change.endpoint ?? null,
      ...(change.terms === undefined ? {} : { terms: change.terms }),
    },
    serverSerial: change.serverSerial ?? 0n,
  });
}

test("ownRecord() signs what the machine is and offers, for anybody to open", async () => {
  await using state = await temporaryState();
  const { record: made, signed } = await record(state.dir, { routes: [ALL4, ALL6] });
  expect(openRecord(signed)).toEqual(made);
  expect(made).toMatchObject({
    serial: 1n,
    network: sampleEnrolment.network,
    identity: (await machineKeys(state.dir)).identityKey,
    name: sampleEnrolment.name,
    addresses: [sampleEnrolment.ipv4, sampleEnrolment.ipv6],
    routes: [ALL4, ALL6],
  });
});

test("ownRecord() gives the same bytes while nothing changed, also after a restart", async () => {
  await using state = await temporaryState();
  const first = await record(state.dir);
  expect((await record(state.dir)).signed).toEqual(first.signed);
  expect((await record(state.dir, { serverSerial: 1n })).signed).toEqual(first.signed);
});

test("ownRecord() counts up with every change of content", async () => {
  await using state = await temporaryState();
  await record(state.dir);
  expect((await record(state.dir, { routes: [] })).record.serial).toBe(2n);
  expect((await record(state.dir, { routes: [ALL4] })).record.serial).toBe(3n);
  expect((await record(state.dir, { routes: [ALL4], name: "desk" })).record.serial).toBe(4n);
  expect((await record(state.dir, { name: "desk", endpoint: "home.example:51820" })).record.serial).toBe(5n);
  expect((await record(state.dir, { name: "desk" })).record.serial).toBe(6n);
});

test("ownRecord() signs an exit's terms: a new serial for each change, and nobody else can change them", async () => {
  await using state = await temporaryState();
  const terms: ExitTerms = { ...TERMS, mail: true };
  await record(state.dir);
  const { record: made, signed } = await record(state.dir, { terms: TERMS });
  expect(made.serial).toBe(2n);
  expect((await record(state.dir, { terms })).record.serial).toBe(3n);
  const peer = { machine: { bytes: signed.bytes } } as Parameters<typeof termsOf>[0];
  expect(termsOf(peer)).toEqual(TERMS);
  const bytes = fromBase64(signed.bytes) ?? new Uint8Array(0);
  const length = encodeExitTerms(TERMS).length;
  for (let at = bytes.length - length; at < bytes.length; at++) {
    const forged = { ...signed, bytes: toBase64(bytes.with(at, (bytes[at] ?? 0) ^ 1)) };
    expect(() => openRecord(forged)).toThrow("signature is missing or wrong");
  }
});

test("ownRecord() goes past the serial that the server holds when its own file was lost", async () => {
  await using state = await temporaryState();
  expect((await record(state.dir, { serverSerial: 41n })).record.serial).toBe(42n);
});

test("ownRecord() is not pushed to the end of the serials by what a server says", async () => {
  await using state = await temporaryState();
  await record(state.dir);
  for (const serverSerial of [1n << 40n, (1n << 63n) - 1n, (1n << 64n) - 1n]) {
    const refused = record(state.dir, { serverSerial, routes: [] });
    expect(await failureOf(refused)).toMatchObject({ name: "OwnRecordError", code: "record-serial" });
  }
  expect((await record(state.dir, { routes: [] })).record.serial).toBe(2n);
});
