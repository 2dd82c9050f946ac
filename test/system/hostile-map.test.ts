import { afterEach, beforeEach, expect, test } from "bun:test";
import type { MachineName } from "../../src/base/hostname.ts";
import { type Cidr, cidrNth } from "../../src/base/ip.ts";
import type { Peer } from "../../src/proto/control.ts";
import {
  type IdentitySecret,
  identityKeyOf,
  type MachineId,
  newIdentity,
  newWireGuardSecret,
  wireGuardKeyOf,
} from "../../src/proto/keys.ts";
import { decodeRecord, encodeRecord, type MachineRecord, openRecord, signRecord } from "../../src/proto/record.ts";
import { membershipHealth } from "../../src/roles/health.ts";
import { fromBase64, toBase64 } from "../../src/base/bytes.ts";
import { HostileServer, RANGE4, RANGE6 } from "./hostile-server.ts";
import {
  enrolWith,
  NEVER,
  type RunningClient,
  type RunningNode,
  startClient,
  startNode,
  talk,
} from "./machine-support.ts";
import { frameOf, until } from "./server-support.ts";

let all: AsyncDisposableStack;
let server: HostileServer;
let node: RunningNode;
let client: RunningClient;
let words = 0;

/** The false machine: whoever holds these keys would read what is sent to it. */
const evil = {
  id: crypto.randomUUID() as MachineId,
  identity: newIdentity(),
  wireGuard: wireGuardKeyOf(newWireGuardSecret()),
};

beforeEach(async () => {
  all = new AsyncDisposableStack();
  server = all.use(await HostileServer.start());
  node = all.use(await startNode(all.use(await enrolWith(server.invite("node"), "home")).dir));
  await until(() => server.member("home").record, "the node's record");
  client = all.use(await startClient(all.use(await enrolWith(server.invite("client"), "laptop")).dir, "home"));
  await client.connection.connected(NEVER);
  await talk(client, node, "before"); // the way is open, so what is not seen below was not sent
});

afterEach(async () => {
  await all.disposeAsync();
});

/** What the real machine says of itself. */
function truth(): MachineRecord {
  const { record } = server.member("home");
  if (record === null) throw new Error("no record");
  return openRecord(record);
}

/** Home's peer with another record, signed by whom the test likes. */
function home(change: Partial<MachineRecord>, by: IdentitySecret, shown: Partial<Peer> = {}): Peer {
  return { ...server.peer("home"), record: signRecord({ ...truth(), ...change }, by), ...shown };
}

/** The false machine as a machine of its own. */
function stranger(change: Partial<MachineRecord>): Peer {
  const own: Partial<MachineRecord> = {
    name: "evil" as MachineName,
    identity: identityKeyOf(evil.identity),
    wireGuard: evil.wireGuard,
    addresses: [cidrNth(RANGE4, 66), cidrNth(RANGE6, 66)],
  };
  return home({ ...own, ...change }, evil.identity, { id: evil.id });
}

function health(): string[] {
  return membershipHealth(client.connection.membership).map((entry) => entry.code);
}

/** The client shows the refusal, goes on with what it knew, and has nothing to do with the false machine. */
async function expectRefused(code: string): Promise<void> {
  await until(() => health().includes(code), `${code} in the health, not ${health().join()}`);
  await expectAsBefore();
}

async function expectAsBefore(): Promise<void> {
  await talk(client, node, `after ${++words}`);
  expect(client.connection.state.kind).toBe("connected");
  expect(client.wireGuard.keys()).toEqual([node.keys.wireGuardKey]);
  expect(node.wireGuard.keys()).toEqual([client.keys.wireGuardKey]);
  const { ipv4, ipv6 } = node.store.value;
  expect(client.wireGuard.allowedIps(node.keys.wireGuardKey)).toEqual(
    ["0.0.0.0/0", "::/0", `${ipv4}/32`, `${ipv6}/128`].sort(),
  );
  for (const machine of [client, node]) {
    expect([...machine.wireGuard.everPeers]).not.toContain(evil.wireGuard);
    expect([...machine.wireGuard.sentTo]).not.toContain(evil.wireGuard);
  }
}

test("a swapped WireGuard key is refused: the machine's signature is missing", async () => {
  const { record } = server.member("home");
  if (record === null) throw new Error("no record");
  const forged = decodeRecord(fromBase64(record.bytes) ?? new Uint8Array(0));
  const bytes = toBase64(encodeRecord({ ...forged, serial: 9n, wireGuard: evil.wireGuard }));
  server.show("laptop", { ...server.peer("home"), record: { ...record, bytes } });
  await expectRefused("record-signature");
});

test("a swapped identity under a known name is refused", async () => {
  const change = { serial: 9n, identity: identityKeyOf(evil.identity), wireGuard: evil.wireGuard };
  server.show("laptop", home(change, evil.identity));
  await expectRefused("identity-changed");
  server.show("laptop", { ...home(change, evil.identity), id: evil.id });
  await expectRefused("identity-changed");
});

test("a swapped identity is refused also when the known machine was taken away before", async () => {
  server.say("laptop", { type: "delta", at: server.next(), upsert: [], remove: [server.member("home").id] });
  await until(() => client.wireGuard.keys().length === 0, "the peer to go");
  const change = { serial: 9n, identity: identityKeyOf(evil.identity), wireGuard: evil.wireGuard };
  server.show("laptop", home(change, evil.identity, { id: evil.id }));
  await until(() => health().includes("identity-changed"), "the refusal");
  expect(client.wireGuard.keys()).toEqual([]);
  expect(client.system.routes?.families[4]).toBe("tunnel"); // nothing leaves by another way
  server.show("laptop", server.peer("home"));
  await expectRefused("identity-changed");
});

test("widened routes are refused: the machine's signature is missing", async () => {
  const routes = [...truth().routes, "192.168.0.0/16" as Cidr];
  server.show("laptop", home({ serial: 9n, routes }, evil.identity));
  await expectRefused("record-signature");
});

test("a lowered serial is refused", async () => {
  server.show("laptop", home({ serial: 5n }, node.keys.identity));
  await until(() => client.trust.list()[0]?.serial === "5", "the newer record");
  server.show("laptop", home({ serial: 4n, routes: [] }, node.keys.identity));
  await expectRefused("serial-lowered");
});

test("two records of one serial are refused", async () => {
  server.show("laptop", home({ routes: [] }, node.keys.identity));
  await expectRefused("record-forked");
});

test("another machine's address is refused", async () => {
  server.show("laptop", stranger({ addresses: truth().addresses }));
  await expectRefused("address-taken");
});

test("the client's own address is refused", async () => {
  server.show("laptop", stranger({ addresses: [client.store.value.ipv4] }));
  await expectRefused("address-taken");
});

test("an address outside the network is refused", async () => {
  server.show("laptop", stranger({ addresses: [cidrNth("192.168.1.0/24" as Cidr, 1)] }));
  await expectRefused("address-foreign");
});

test("the client's own name is refused to another", async () => {
  server.show("laptop", stranger({ name: client.store.value.name }));
  await expectRefused("self-imitated");
});

test("a record of another network, and one whose time is over, are refused", async () => {
  server.show("laptop", stranger({ network: identityKeyOf(newIdentity()) }));
  await expectRefused("foreign-network");
  server.show("laptop", stranger({ notAfter: 1n }));
  await expectRefused("expired");
});

test("a map of an earlier epoch is refused, and the last good one stays", async () => {
  server.lie = { at: { epoch: 99, seq: 1 }, peers: [stranger({})] };
  server.cut("laptop");
  await until(() => health().includes("map-rollback"), "the refusal");
  expect(health().filter((code) => code === "map-rollback")).toHaveLength(1);
  expect(client.connection.membership.map.peers().map((peer) => peer.name as string)).toEqual(["home"]);
  expect(client.wireGuard.keys()).toEqual([node.keys.wireGuardKey]);
  await expectRefused("map-rollback");
});

test("an earlier map of the same epoch is refused", async () => {
  server.lie = { at: { epoch: 100, seq: 1 }, peers: [stranger({})] };
  server.cut("laptop");
  await expectRefused("map-rollback");
});

test("an old delta is dropped", async () => {
  server.say("laptop", { type: "delta", at: { epoch: 100, seq: 1 }, upsert: [], remove: [server.member("home").id] });
  server.say("laptop", { type: "delta", at: { epoch: 99, seq: 900 }, upsert: [stranger({})], remove: [] });
  await expectAsBefore();
  expect(client.connection.membership.map.peers()).toHaveLength(1);
});

test("a known name is not freed by renaming its machine", async () => {
  const other = stranger({ name: "home" as MachineName });
  server.member("home").name = "attic" as MachineName;
  server.cut("attic");
  await until(() => client.connection.membership.map.named("attic"), "the new name");
  server.show("laptop", other);
  await expectRefused("identity-changed");
});

test("a new machine with a ready exit moves nobody who named another", async () => {
  server.show("laptop", stranger({}), {
    ...server.peer("home"),
    online: false,
    exit: { ready: false, ipv6: false, missing: [] },
  });
  await until(() => client.connection.membership.map.named("evil"), "the new machine");
  expect(client.connection.exit?.name as string).toBe("home");
  server.show("laptop", server.peer("home"));
  await expectAsBefore();
});

test("sessions with machines that are unknown or were refused lead nowhere", async () => {
  server.show("laptop", stranger({ addresses: truth().addresses }));
  server.show("home", stranger({ addresses: [client.store.value.ipv4] }));
  const ids = [evil.id, crypto.randomUUID() as MachineId];
  for (const id of ids) for (const name of ["laptop", "home"]) server.grant(id, server.member(name).id);
  await until(() => client.connection.membership.sessions.has(evil.id), "the session");
  await expectRefused("address-taken");
  const [real] = client.connection.membership.sessions.values();
  expect([...server.frames.keys()]).toEqual([real?.id ?? -1]);
});

test("a serial of its own that it never gave does not make the machine use up the rest", async () => {
  const before = truth().serial;
  server.lie = { recordSerial: String((1n << 64n) - 1n) };
  server.cut("home");
  await until(() => node.membership.trouble?.code === "record-serial", "the refusal");
  server.lie = { recordSerial: "1" };
  server.cut("home");
  await until(() => node.membership.trouble === null, "no trouble left");
  expect(truth().serial).toBe(before);
  server.lie = {};
  await expectAsBefore();
});

test("IPv6 that the server promises and the exit's record does not offer is refused to applications", async () => {
  server.show("laptop", home({ serial: 9n, routes: ["0.0.0.0/0" as Cidr] }, node.keys.identity));
  await until(() => client.system.routes?.families[6] === "refuse", "the refusal");
  expect(client.wireGuard.allowedIps(node.keys.wireGuardKey)).not.toContain("::/0");
});

test("garbage on the control stream is dropped", async () => {
  const garbage = [
    "",
    "null",
    "[]",
    "{",
    '"welcome"',
    '{"type":"nope"}',
    '{"type":"delta"}',
    '{"type":"session","session":{"id":-1}}',
    '{"type":"connected","ref":999,"session":{"id":1,"peer":"x","kind":"wireguard","initiator":true}}',
    '{"__proto__":{"type":"welcome"}}',
    "[".repeat(100_000),
    `{"type":"session-end","id":1,"reason":"${"x".repeat(1_000_000)}"}`,
    "\u0000\ufffd".repeat(1_000),
  ];
  for (const text of garbage) server.raw("laptop", text);
  server.raw("laptop", new Uint8Array(10_000).fill(0xff));
  server.raw("laptop", "x".repeat(8 * 1024 * 1024));
  server.say("laptop", { type: "session-end", id: 4_000_000_000, reason: "nobody's" });
  server.say("laptop", { type: "refused", ref: 77, code: "x", detail: "y" });
  await expectAsBefore();
});

test("garbage on the relay is dropped and counted", async () => {
  const [session] = client.connection.membership.sessions.values();
  const id = session?.id ?? 0;
  const wrong = frameOf(id).with(5, 0xff);
  const noWireGuard = frameOf(id).with(7, 0x99);
  const random = crypto.getRandomValues(new Uint8Array(2_000)).with(0, 1);
  const frames = [
    new Uint8Array(0),
    new Uint8Array(1),
    frameOf(id).slice(0, 5),
    wrong,
    noWireGuard,
    random,
    frameOf(77),
    new Uint8Array(200_000),
  ];
  for (const frame of frames) server.raw("laptop", new Uint8Array(frame), "relay");
  server.raw("laptop", "text", "relay");
  const { counters } = client.connection.membership.relay;
  await until(() => counters.droppedIn >= frames.length - 1, "the count"); // an empty message may not arrive
  await expectAsBefore();
});
