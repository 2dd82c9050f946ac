import { expect, test } from "bun:test";
import { join } from "../../../src/peer/enrol.ts";
import type { StateDir } from "../../../src/peer/state-dir.ts";
import type { Invite } from "../../../src/proto/invite.ts";
import { failureOf } from "../support/failure.ts";
import { NETWORK_KEY, STRANGER_KEY } from "../support/keys.ts";
import { sampleEnrolment, temporaryState } from "./state.ts";

/** Its server is on a port of loopback that nobody listens on: whoever asks it fails. */
const invite: Invite = {
  servers: [{ host: "127.0.0.1", port: 1 }],
  network: NETWORK_KEY,
  id: "abcd1234",
  secret: new Uint8Array(32).fill(0x5a),
  role: "client",
  name: null,
  tags: [],
};

const NO_PREFIXES = (): Promise<readonly []> => Promise.resolve([]);

function attempt(dir: StateDir, change: Partial<Invite> = {}, name: string | null = null) {
  const options = {
    role: "client",
    name,
    hostname: "Laptop.local",
    version: "0.0.0-test",
    platform: "test",
    prefixes: NO_PREFIXES,
  } as const;
  return join(dir, { ...invite, ...change }, options, new AbortController().signal);
}

async function filesIn(dir: StateDir): Promise<string[]> {
  return Array.fromAsync(new Bun.Glob("*").scan(dir.path));
}

test("join() refuses an invite of the other role before anything is written or sent", async () => {
  await using state = await temporaryState();
  const thrown = await failureOf(attempt(state.dir, { role: "node" }));
  expect(thrown).toMatchObject({ name: "JoinError", code: "wrong-role" });
  expect(thrown).toMatchObject({ remedy: expect.stringContaining("higgs node join") as unknown });
  expect(await filesIn(state.dir)).toEqual([]);
});

test("join() refuses a name that is none, and proposes one", async () => {
  await using state = await temporaryState();
  for (const [name, proposal] of [
    ["My Laptop", "--name my-laptop"],
    ["UPPER", "--name upper"],
    ["a.b", "--name a"],
  ] as const) {
    const thrown = await failureOf(attempt(state.dir, {}, name));
    expect(thrown).toMatchObject({ code: "bad-name" });
    expect(String(thrown)).toContain(`"${name}"`);
    expect(String((thrown as { remedy?: string }).remedy)).toStartWith(proposal);
  }
  expect(await filesIn(state.dir)).toEqual([]);
});

test("join() again in the same network changes nothing and asks nobody", async () => {
  await using state = await temporaryState();
  await state.dir.writeJson("enrolment.json", sampleEnrolment);
  expect(await attempt(state.dir)).toEqual(sampleEnrolment);
});

test("join() refuses another network while the machine is in one, and says how to leave", async () => {
  await using state = await temporaryState();
  await state.dir.writeJson("enrolment.json", sampleEnrolment);
  const thrown = await failureOf(attempt(state.dir, { network: STRANGER_KEY }));
  expect(thrown).toMatchObject({ code: "already-joined", remedy: "higgs client leave" });
  expect(String(thrown)).toContain(`"${sampleEnrolment.name}"`);
});

test("join() keeps the keys that it made when no server answered, and no enrolment", async () => {
  await using state = await temporaryState();
  expect(await failureOf(attempt(state.dir))).toMatchObject({ code: "server-unreachable" });
  expect((await filesIn(state.dir)).toSorted((a, b) => a.localeCompare(b))).toEqual(["identity.key", "wireguard.key"]);
  const key = await state.dir.readBytes("identity.key");
  await failureOf(attempt(state.dir));
  expect(await state.dir.readBytes("identity.key")).toEqual(key);
});
