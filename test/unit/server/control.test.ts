import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import fc from "fast-check";
import { CLOSE, type MachineMessage, serverMessageSchema } from "../../../src/proto/control.ts";
import type { MachineId } from "../../../src/proto/keys.ts";
import { type ControlConnection, MOST_BLOCKED_MS } from "../../../src/server/control/connection.ts";
import { ControlHub } from "../../../src/server/control/hub.ts";
import { Directory, type Machine } from "../../../src/server/directory.ts";
import { defaultPolicy } from "../../../src/server/policy.ts";
import { Presence } from "../../../src/server/presence.ts";
import { NETWORK_KEY } from "../support/keys.ts";
import { check } from "../support/property.ts";
import { FakeSocket, machineOf, withRecord } from "./values.ts";

const NODE = withRecord(machineOf(1, "node"));
const CLIENT = withRecord(machineOf(2, "client"));
const OTHER_CLIENT = withRecord(machineOf(3, "client"));

let directory: Directory;
let hub: ControlHub;
let handled: [MachineId, MachineMessage][];
let presence: Presence;

beforeEach(() => {
  jest.useFakeTimers();
  directory = new Directory();
  for (const machine of [NODE, CLIENT, OTHER_CLIENT]) directory.set(machine);
  handled = [];
  presence = new Presence();
  hub = new ControlHub({
    directory,
    presence,
    policy: defaultPolicy,
    epoch: 42,
    commons: () => ({
      version: "1",
      network: NETWORK_KEY,
      range4: "10.77.0.0/16" as never,
      range6: "fd00::/48" as never,
      servers: ["vpn.example:443"],
      relays: ["/api/v1/relay"],
      stun: [],
    }),
    sessionsOf: () => [],
    onMessage: async (machine, message) => {
      handled.push([machine, message]);
    },
    onPresence: () => undefined,
  });
});
afterEach(() => {
  jest.useRealTimers();
});

function connect(machine: Machine): { connection: ControlConnection; socket: FakeSocket } {
  const connection = hub.accept(machine.id, null);
  const socket = new FakeSocket();
  connection.open(socket);
  return { connection, socket };
}

/** Ids by message, of those that came after the welcome. */
function deltasOf(socket: FakeSocket): { upsert: MachineId[]; remove: MachineId[] }[] {
  return socket.messages().flatMap((message) => {
    const parsed = serverMessageSchema.parse(message);
    return parsed.type === "delta" ? [{ upsert: parsed.upsert.map((peer) => peer.id), remove: parsed.remove }] : [];
  });
}

function seqOf(socket: FakeSocket, message: number): number {
  return (socket.messages()[message] as { at: { seq: number } }).at.seq;
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

describe("ControlHub", () => {
  test("greets with a full map of those that the machine may see and that have introduced themselves", () => {
    directory.set(machineOf(4, "node"));
    const { socket } = connect(CLIENT);
    const welcome = serverMessageSchema.parse(socket.messages()[0]);
    if (welcome.type !== "welcome") throw new Error(welcome.type);
    expect(welcome.at.epoch).toBe(42);
    expect(welcome.recordSerial).toBe("1");
    expect(welcome.peers.map((peer) => [peer.id, peer.online])).toEqual([[NODE.id, false]]);
    expect(welcome.self).toMatchObject({ id: CLIENT.id, role: "client" });
  });

  test("tells those who may see a machine when it comes and goes, and nobody else", () => {
    const client = connect(CLIENT).socket;
    const { connection } = connect(NODE);
    const other = connect(OTHER_CLIENT).socket;
    jest.advanceTimersByTime(50);
    expect(deltasOf(client)).toEqual([{ upsert: [NODE.id], remove: [] }]);
    expect(deltasOf(other)).toEqual([]);
    connection.close();
    jest.advanceTimersByTime(50);
    expect(deltasOf(client).length).toBe(2);
    expect(deltasOf(other)).toEqual([{ upsert: [NODE.id], remove: [] }]);
  });

  test("puts changes that come together into one delta with each machine's last state", () => {
    const client = connect(CLIENT).socket;
    connect(NODE);
    presence.setExit(NODE.id, { ready: false, ipv6: false, missing: ["x"] });
    hub.changed(NODE);
    presence.setExit(NODE.id, { ready: true, ipv6: false, missing: [] });
    hub.changed(NODE);
    expect(client.sent.length).toBe(1);
    jest.advanceTimersByTime(50);
    expect(client.sent.length).toBe(2);
    expect(client.messages()[1]).toMatchObject({ upsert: [{ online: true, exit: { ready: true } }] });
  });

  test("counts positions up over all connections", () => {
    const client = connect(CLIENT).socket;
    const node = connect(NODE).socket;
    jest.advanceTimersByTime(50);
    const seqs = [...client.messages(), ...node.messages()].map((message) => (message.at as { seq: number }).seq);
    expect(new Set(seqs).size).toBe(seqs.length);
    expect(seqOf(client, 1)).toBeGreaterThan(seqOf(client, 0));
  });

  test("says that a machine is gone once it is not in the directory", () => {
    const client = connect(CLIENT).socket;
    directory.remove(NODE.id);
    hub.changed(NODE);
    jest.advanceTimersByTime(50);
    expect(deltasOf(client)).toEqual([{ upsert: [], remove: [NODE.id] }]);
  });

  test("splits what is too long for one delta, and loses nothing", () => {
    const client = connect(CLIENT).socket;
    const nodes = Array.from({ length: 200 }, (_, i) => withRecord(machineOf(100 + i, "node")));
    for (const node of nodes) {
      directory.set(node);
      hub.changed(node);
    }
    jest.advanceTimersByTime(50);
    const deltas = deltasOf(client);
    expect(deltas.length).toBeGreaterThan(1);
    expect(deltas.flatMap((delta) => delta.upsert).sort()).toEqual(nodes.map((node) => node.id).sort());
    for (const text of client.sent) expect(text.length).toBeLessThan(65_536);
  });

  test("lets a newer connection replace the older one without the machine going offline", () => {
    const client = connect(CLIENT).socket;
    const older = connect(NODE);
    jest.advanceTimersByTime(50);
    const newer = connect(NODE);
    expect(older.socket.closed?.code).toBe(CLOSE.replaced);
    older.connection.close();
    jest.advanceTimersByTime(50);
    expect(deltasOf(client).length).toBe(1);
    expect(hub.get(NODE.id)).toBe(newer.connection);
    expect(hub.size).toBe(2);
  });

  test("ends the connection of a machine that is not enrolled any more", () => {
    directory.remove(NODE.id);
    const { socket } = connect(NODE);
    expect(socket.sent).toEqual([]);
    expect(socket.closed?.code).toBe(CLOSE.revoked);
    expect(hub.isOnline(NODE.id)).toBe(false);
  });
});

describe("ControlConnection", () => {
  test("hands messages on one by one, in order", async () => {
    const { connection } = connect(NODE);
    connection.message(JSON.stringify({ type: "presence", exit: null }));
    connection.message(JSON.stringify({ type: "disconnect", id: 7 }));
    await settle();
    expect(handled.map(([machine, message]) => [machine, message.type])).toEqual([
      [NODE.id, "presence"],
      [NODE.id, "disconnect"],
    ]);
  });

  test.each<[string, string | Uint8Array<ArrayBuffer>]>([
    ["bytes", new Uint8Array([1, 2, 3])],
    ["no JSON", "{"],
    ["another type", JSON.stringify({ type: "hello" })],
    ["a field out of range", JSON.stringify({ type: "disconnect", id: -1 })],
    ["a message of the server's", JSON.stringify({ type: "session-end", id: 1, reason: "" })],
    ["too much", JSON.stringify({ type: "disconnect", id: 1, x: "a".repeat(65_536) })],
    ["nothing", ""],
    ["null", "null"],
  ])("is closed for %s, and hears no more", async (_what, data) => {
    const { connection, socket } = connect(NODE);
    connection.message(data);
    connection.message(JSON.stringify({ type: "presence", exit: null }));
    await settle();
    expect(socket.closed?.code).toBe(CLOSE.malformed);
    expect(handled).toEqual([]);
    expect(hub.malformedCount).toBe(1);
    jest.advanceTimersByTime(1000);
    expect(socket.isCut).toBe(true);
  });

  test("throws for nothing that may be sent to it", () => {
    check(
      fc.property(fc.oneof(fc.string(), fc.json(), fc.uint8Array()), (data) => {
        const { connection } = connect(NODE);
        connection.message(typeof data === "string" ? data : new Uint8Array(data));
        connection.close();
      }),
    );
  });

  test("is closed when too many messages come at once", () => {
    const { connection, socket } = connect(NODE);
    for (let i = 0; i < 65; i++) connection.message(JSON.stringify({ type: "presence", exit: null }));
    expect(socket.closed?.code).toBe(CLOSE.tooSlow);
  });

  test("tells of changes before it tells of a session", () => {
    const { connection, socket } = connect(CLIENT);
    connect(NODE);
    const session = { id: 5, peer: NODE.id, kind: "wireguard", initiator: false } as const;
    connection.send({ type: "session", session });
    expect(socket.messages().map((message) => message.type)).toEqual(["welcome", "delta", "session"]);
  });

  test("sends nothing to a reader that is behind, and then only the last state of each machine", () => {
    const { connection, socket } = connect(CLIENT);
    socket.answer = -1;
    connect(NODE);
    jest.advanceTimersByTime(50);
    expect(socket.sent.length).toBe(2);
    for (let i = 0; i < 1000; i++) {
      presence.setExit(NODE.id, { ready: i % 2 === 0, ipv6: false, missing: [] });
      hub.changed(NODE);
      jest.advanceTimersByTime(50);
    }
    connection.send({ type: "session-end", id: 1, reason: "x" });
    expect(socket.sent.length).toBe(2);
    socket.answer = null;
    connection.drain();
    expect(
      socket
        .messages()
        .slice(2)
        .map((message) => message.type),
    ).toEqual(["session-end", "delta"]);
  });

  test("closes a reader that takes nothing for too long", () => {
    const { socket } = connect(CLIENT);
    socket.answer = -1;
    connect(NODE);
    jest.advanceTimersByTime(50);
    hub.sweep(Date.now() - 50 + MOST_BLOCKED_MS);
    expect(socket.closed).toBeNull();
    hub.sweep(Date.now() + MOST_BLOCKED_MS + 1);
    expect(socket.closed?.code).toBe(CLOSE.tooSlow);
  });

  test("closes a reader for whom too many short messages wait, or one was dropped", () => {
    const { connection, socket } = connect(CLIENT);
    socket.answer = -1;
    for (let id = 0; id < 300; id++) connection.send({ type: "session-end", id, reason: "" });
    expect(socket.closed?.code).toBe(CLOSE.tooSlow);
    const second = connect(OTHER_CLIENT);
    second.socket.answer = 0;
    second.connection.send({ type: "session-end", id: 1, reason: "" });
    expect(second.socket.closed?.code).toBe(CLOSE.tooSlow);
  });
});
