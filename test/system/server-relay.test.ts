import { afterAll, beforeAll, expect, test } from "bun:test";
import { connect as tlsConnect } from "node:tls";
import { CLOSE } from "../../src/proto/control.ts";
import { MOST_FRAME_BYTES } from "../../src/proto/relay-frame.ts";
import {
  enrolMachine,
  frameOf,
  introduce,
  openControl,
  openRelay,
  recordOf,
  startServer,
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
async function pair(): Promise<{ node: TestMachine; client: TestMachine }> {
  count++;
  return {
    node: await enrolMachine(server, "node", `node-${count}`),
    client: await enrolMachine(server, "client", `client-${count}`),
  };
}

test("a client and a node find each other, get a session, and exchange packets through the relay", async () => {
  const { node, client } = await pair();
  const nodeControl = await introduce(server, node);
  const clientControl = await introduce(server, client);
  const welcome = await clientControl.welcome();
  expect(welcome.self).toEqual({
    id: client.id,
    name: client.name,
    role: "client",
    tags: [],
    ipv4: client.ipv4,
    ipv6: client.ipv6,
  });
  await until(() =>
    clientControl.messages.some(
      (message) =>
        (message.type === "welcome" && message.peers.some((peer) => peer.id === node.id)) ||
        (message.type === "delta" && message.upsert.some((peer) => peer.id === node.id && peer.online)),
    ),
  );
  clientControl.send({ type: "connect", ref: 5, peer: node.id, kind: "wireguard" });
  const { session, ref } = await clientControl.next("connected");
  expect(ref).toBe(5);
  expect(session).toMatchObject({ id: session.id, peer: node.id, kind: "wireguard", initiator: true });
  const told = await nodeControl.next("session");
  expect(told.session).toMatchObject({ id: session.id, peer: client.id, kind: "wireguard", initiator: false });
  const nodeRelay = await openRelay(server, node);
  const clientRelay = await openRelay(server, client);
  clientRelay.ws.send(frameOf(session.id, [100, 1452]));
  expect(await until(() => nodeRelay.frames[0])).toEqual(frameOf(session.id, [100, 1452]));
  nodeRelay.ws.send(frameOf(session.id, [60]));
  expect(await until(() => clientRelay.frames[0])).toEqual(frameOf(session.id, [60]));
  const summary = server.server.sessions().find((entry) => entry.id === session.id);
  expect(summary?.machines).toEqual([client.name, node.name]);
  expect(summary?.sent.map(({ frames, packets }) => [frames, packets])).toEqual([
    [1, 2],
    [1, 1],
  ]);
  for (const socket of [nodeControl, clientControl, nodeRelay, clientRelay]) socket.ws.close();
});

test("a newer relay connection of the same machine replaces the older", async () => {
  const { node } = await pair();
  const control = await openControl(server, node);
  await control.welcome();
  control.send({ type: "record", record: recordOf(node, 1n) });
  const first = await openRelay(server, node);
  const second = await openRelay(server, node);
  expect((await until(() => first.closed())).code).toBe(CLOSE.replaced);
  expect(second.closed()).toBeNull();
  second.ws.close();
  control.ws.close();
});

test("forwards nothing without a session, nor on another machine's session", async () => {
  const { node, client } = await pair();
  const stranger = await enrolMachine(server, "client", `stranger-${count}`);
  const control = await introduce(server, client);
  await introduce(server, node);
  control.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
  const { session } = await control.next("connected");
  const [a, b, c] = [await openRelay(server, client), await openRelay(server, node), await openRelay(server, stranger)];
  c.ws.send(frameOf(session.id));
  a.ws.send(frameOf(session.id === 1 ? 2 : session.id - 1));
  a.ws.send(new TextEncoder().encode("GET / HTTP/1.1"));
  a.ws.send("text");
  a.ws.send(new Uint8Array(0));
  const general = frameOf(session.id, [200]);
  a.ws.send(general.with(7, 0x47));
  a.ws.send(general);
  expect(await until(() => b.frames[0])).toEqual(general);
  expect(b.frames.length).toBe(1);
  expect(server.server.sessions().find((entry) => entry.id === session.id)?.sent[0]).toMatchObject({
    frames: 1,
    dropped: 1,
  });
  const text = server.server.prometheus();
  for (const reason of ["malformed", "no-session", "not-wireguard"]) {
    expect(Number(new RegExp(`dropped_frames_total\\{reason="${reason}"\\} (\\d+)`).exec(text)?.[1])).toBeGreaterThan(
      0,
    );
  }
  for (const { ws } of [a, b, c]) ws.close();
});

test("closes a connection that sends more than a frame may have, and no other", async () => {
  const { node, client } = await pair();
  const [big, other] = [await openRelay(server, client), await openRelay(server, node)];
  big.ws.send(new Uint8Array(MOST_FRAME_BYTES));
  big.ws.send(new Uint8Array(MOST_FRAME_BYTES + 1));
  await until(() => big.closed());
  expect(other.closed()).toBeNull();
  other.ws.close();
});

test("drops for a reader that stops, rather than fill the server's memory, and for nobody else", async () => {
  const { node, client } = await pair();
  const second = await enrolMachine(server, "node", `second-${count}`);
  const control = await introduce(server, client);
  for (const machine of [node, second]) await introduce(server, machine);
  control.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
  control.send({ type: "connect", ref: 2, peer: second.id, kind: "wireguard" });
  await until(() => control.messages.filter((message) => message.type === "connected").length === 2);
  const [first, other] = control.messages.flatMap((message) => (message.type === "connected" ? [message.session] : []));
  const sender = await openRelay(server, client);
  const reader = await openRelay(server, second);
  // A raw connection of the node's that never reads.
  const deaf = tlsConnect({ host: "127.0.0.1", port: server.server.port, rejectUnauthorized: false });
  await new Promise<void>((resolve) => deaf.once("secureConnect", () => resolve()));
  deaf.on("error", () => undefined); // it is cut at the end
  deaf.write(
    `GET /api/v1/relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer ${await tokenOf(server, node)}\r\n\r\n`,
  );
  await new Promise<void>((resolve) => deaf.once("data", () => resolve()));
  deaf.pause();
  const sent = (id: number | undefined) => server.server.sessions().find((entry) => entry.id === id)?.sent[0];
  const full = frameOf(first?.id ?? 0, Array<number>(44).fill(1450));
  let frames = 0;
  while ((sent(first?.id)?.dropped ?? 0) < 200 && frames < 5000) {
    for (let i = 0; i < 20; i++, frames++) sender.ws.send(full);
    await until(() => (sent(first?.id)?.frames ?? 0) + (sent(first?.id)?.dropped ?? 0) === frames);
  }
  expect(sent(first?.id)?.dropped).toBeGreaterThanOrEqual(200);
  for (let i = 0; i < 50; i++) sender.ws.send(frameOf(other?.id ?? 0, [1000]));
  await until(() => reader.frames.length === 50);
  expect(sent(other?.id)?.dropped).toBe(0);
  deaf.destroy();
  for (const { ws } of [sender, reader, control]) ws.close();
});
