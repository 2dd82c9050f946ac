import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect as tlsConnect } from "node:tls";
import type { MachineName } from "../../src/base/hostname.ts";
import { CLOSE, type Peer } from "../../src/proto/control.ts";
import type { MachineId } from "../../src/proto/keys.ts";
import { openRecord } from "../../src/proto/record.ts";
import {
  codeOf,
  enrolMachine,
  introduce,
  newcomer,
  openControl,
  recordOf,
  startServer,
  type TestControl,
  type TestMachine,
  type TestServer,
  tokenOf,
  until,
} from "./server-support.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

let count = 0;
async function machines(): Promise<{ node: TestMachine; client: TestMachine }> {
  count++;
  return {
    node: await enrolMachine(server, "node", `node-${count}`),
    client: await enrolMachine(server, "client", `client-${count}`),
  };
}

/** What a machine knows of another one after everything that it was told. */
function known(control: TestControl, id: MachineId): Peer | null {
  let peer: Peer | null = null;
  for (const message of control.messages) {
    if (message.type === "welcome") peer = message.peers.find((one) => one.id === id) ?? null;
    if (message.type !== "delta") continue;
    peer = message.upsert.find((one) => one.id === id) ?? peer;
    if (message.remove.includes(id)) peer = null;
  }
  return peer;
}

describe("the control stream", () => {
  test("shows a machine once it has introduced itself, with its exit, address and presence, to those who may see it", async () => {
    const { node, client } = await machines();
    const bystander = await enrolMachine(server, "node", `bystander-${count}`);
    const watcher = await introduce(server, client);
    const other = await introduce(server, bystander);
    const control = await openControl(server, node);
    expect((await control.welcome()).recordSerial).toBe("0");
    control.send({ type: "presence", exit: { ready: true, ipv6: false, missing: [] } });
    control.send({ type: "connect", ref: 1, peer: client.id, kind: "wireguard" });
    await control.next("connected");
    expect(known(watcher, node.id)).toBeNull();
    control.send({ type: "record", record: recordOf(node, 1n) });
    const shown = await until(() => known(watcher, node.id));
    expect(shown).toMatchObject({ online: true, publicAddress: "127.0.0.1", exit: { ready: true }, tags: [] });
    expect(openRecord(shown.record)).toMatchObject({ name: node.name, serial: 1n });
    control.ws.close();
    await until(() => known(watcher, node.id)?.online === false);
    expect(known(other, node.id)).toBeNull();
    const again = await openControl(server, node);
    expect((await again.welcome()).recordSerial).toBe("1");
    await until(() => known(watcher, node.id)?.online === true);
    for (const { ws } of [watcher, other, again]) ws.close();
  });

  test("numbers what it sends, and never lower, over connections and restarts", async () => {
    const first = await startServer({ keepState: true });
    const node = await enrolMachine(first, "node", "n");
    const one = await (await openControl(first, node)).welcome();
    const two = await (await openControl(first, node)).welcome();
    expect(two.at.epoch).toBe(one.at.epoch);
    expect(two.at.seq).toBeGreaterThan(one.at.seq);
    await first[Symbol.asyncDispose]();
    await using second = await startServer({ stateDir: first.stateDir });
    const three = await (await openControl(second, node)).welcome();
    expect(three.at.epoch).toBeGreaterThan(one.at.epoch);
  });

  test("keeps records over a restart", async () => {
    const first = await startServer({ keepState: true });
    const node = await enrolMachine(first, "node", "n");
    const client = await enrolMachine(first, "client", "c");
    await introduce(first, node, 7n);
    const watcher = await introduce(first, client);
    await until(() => known(watcher, node.id));
    await first[Symbol.asyncDispose]();
    await using second = await startServer({ stateDir: first.stateDir });
    const welcome = await (await openControl(second, client)).welcome();
    const [peer] = welcome.peers;
    expect(peer).toMatchObject({ id: node.id, online: false });
    expect(peer === undefined ? null : openRecord(peer.record).serial).toBe(7n);
  });

  test("refuses a record with another machine's identity, keys, name or addresses, an older serial, or a copied key", async () => {
    const { node, client } = await machines();
    const control = await introduce(server, node, 5n);
    const watcher = await introduce(server, client);
    await until(() => known(watcher, node.id));
    const forged = recordOf({ ...node, identity: newcomer().identity }, 6n);
    const attempts: [string, Parameters<TestControl["send"]>[0]][] = [
      ["record-mismatch", { type: "record", record: forged }],
      ["record-mismatch", { type: "record", record: recordOf(node, 6n, { name: client.name }) }],
      ["record-mismatch", { type: "record", record: recordOf(node, 6n, { addresses: [client.ipv4, client.ipv6] }) }],
      ["record-mismatch", { type: "record", record: recordOf(node, 6n, { role: "client", routes: [] }) }],
      ["record-stale", { type: "record", record: recordOf(node, 4n) }],
      ["record-stale", { type: "record", record: recordOf(node, 5n, { routes: [] }) }],
      ["key-taken", { type: "record", record: recordOf(node, 6n, { wireGuard: client.wireGuard }) }],
      [
        "record-signature",
        { type: "record", record: { ...recordOf(node, 6n), signatures: forged.signatures.map((one) => ({ ...one })) } },
      ],
    ];
    for (const [code, message] of attempts) {
      const from = control.messages.length;
      control.send(message);
      const refusal = await control.next("refused", from);
      expect([refusal.ref, refusal.code]).toEqual([-1, code]);
    }
    const held = known(watcher, node.id);
    expect(held === null ? null : openRecord(held.record)).toMatchObject({ serial: 5n, wireGuard: node.wireGuard });
    const renewed = newcomer().wireGuard;
    control.send({ type: "record", record: recordOf(node, 6n, { wireGuard: renewed }) });
    await until(() => {
      const peer = known(watcher, node.id);
      return peer !== null && openRecord(peer.record).wireGuard === renewed;
    });
    for (const { ws } of [watcher, control]) ws.close();
  });

  test("grants no session with a machine that may not be seen, or is none", async () => {
    const { node } = await machines();
    const other = await enrolMachine(server, "node", `other-${count}`);
    const control = await introduce(server, node);
    for (const [ref, peer] of [
      [1, other.id],
      [2, node.id],
      [3, crypto.randomUUID() as MachineId],
    ] as const) {
      control.send({ type: "connect", ref, peer, kind: "wireguard" });
      await until(() => control.messages.some((message) => message.type === "refused" && message.ref === ref));
    }
    expect(control.messages.flatMap((message) => (message.type === "refused" ? [message.code] : []))).toEqual([
      "peer-unknown",
      "peer-unknown",
      "peer-unknown",
    ]);
    control.ws.close();
  });

  test("gives the pair's one session to both, tells it again in a welcome, and ends it for both", async () => {
    const { node, client } = await machines();
    const bystander = await introduce(server, await enrolMachine(server, "client", `bystander-${count}`));
    const a = await introduce(server, node);
    const b = await introduce(server, client);
    b.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
    const { session } = await b.next("connected");
    a.send({ type: "connect", ref: 9, peer: client.id, kind: "wireguard" });
    const other = (await a.next("connected")).session;
    expect(other).toMatchObject({ id: session.id, peer: client.id, kind: "wireguard", initiator: false });
    const again = await openControl(server, node);
    expect((await again.welcome()).sessions).toEqual([other]);
    expect((await until(() => a.closed())).code).toBe(CLOSE.replaced);
    bystander.send({ type: "disconnect", id: session.id });
    bystander.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
    await bystander.next("connected");
    expect(server.server.sessions().some((entry) => entry.id === session.id)).toBe(true);
    again.send({ type: "disconnect", id: session.id });
    expect((await b.next("session-end")).id).toBe(session.id);
    expect((await again.next("session-end")).id).toBe(session.id);
    for (const { ws } of [again, b, bystander]) ws.close();
  });

  test("closes for what is no message, and goes on serving everybody else", async () => {
    const { node, client } = await machines();
    const good = await introduce(server, client);
    for (const data of ["{", "null", '{"type":"hello"}', new Uint8Array(100), "x".repeat(65_000)]) {
      const bad = await openControl(server, node);
      bad.ws.send(data);
      expect((await until(() => bad.closed())).code).toBe(CLOSE.malformed);
    }
    const huge = await openControl(server, node);
    huge.ws.send("x".repeat(200_000));
    await until(() => huge.closed());
    expect(good.closed()).toBeNull();
    good.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
    await good.next("connected");
    good.ws.close();
  });

  test("renames and tags a machine at once: it has to connect anew and sign its new name", async () => {
    const { node, client } = await machines();
    const watcher = await introduce(server, client);
    const before = await introduce(server, node, 1n);
    await until(() => known(watcher, node.id));
    const name = `renamed-${count}` as MachineName;
    await server.server.rename(node.name, name);
    await until(() => before.closed());
    await server.server.tag(name, ["gpu", "attic"]);
    const after = await openControl(server, node);
    expect((await after.welcome()).self).toMatchObject({ name, tags: ["attic", "gpu"] });
    after.send({ type: "record", record: recordOf(node, 2n) });
    expect((await after.next("refused")).code).toBe("record-mismatch");
    after.send({ type: "record", record: recordOf(node, 2n, { name }) });
    await until(() => {
      const peer = known(watcher, node.id);
      return peer !== null && openRecord(peer.record).name === name && peer.tags.length === 2;
    });
    expect(await codeOf(server.server.rename(name, client.name))).toBe("name-taken");
    expect(await codeOf(server.server.rename(name, "No Name"))).toBe("name-invalid");
    expect(await codeOf(server.server.tag(name, ["x y"]))).toBe("tag-invalid");
    expect(await codeOf(server.server.revoke("nobody"))).toBe("machine-unknown");
    for (const { ws } of [watcher, after]) ws.close();
  });

  test("keeps the others up to date while one machine never reads", async () => {
    const { node, client } = await machines();
    // A raw socket that stops reading after the upgrade: what is sent to it fills the kernel's buffers.
    const token = await tokenOf(server, client);
    const deaf = tlsConnect({ host: "127.0.0.1", port: server.server.port, rejectUnauthorized: false });
    await new Promise<void>((resolve) => deaf.once("secureConnect", () => resolve()));
    deaf.on("error", () => undefined); // it is cut
    deaf.write(
      [
        "GET /api/v1/control HTTP/1.1",
        "Host: x",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        `Authorization: Bearer ${token}`,
        "\r\n",
      ].join("\r\n"),
    );
    await new Promise<void>((resolve) => deaf.once("data", () => resolve()));
    deaf.pause();
    const control = await introduce(server, node);
    const watcher = await introduce(server, await enrolMachine(server, "client", `hearing-${count}`));
    // Each change is a kilobyte to the deaf one; it is told only the last once it reads, so little ever waits for it.
    for (let serial = 2n; serial < 100n; serial++) control.send({ type: "record", record: recordOf(node, serial) });
    await until(() => {
      const peer = known(watcher, node.id);
      return peer !== null && openRecord(peer.record).serial === 99n;
    });
    deaf.destroy();
    for (const { ws } of [watcher, control]) ws.close();
  });
});
