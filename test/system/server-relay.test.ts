import { afterAll, beforeAll, expect, test } from "bun:test";
import { CLOSE } from "../../src/proto/control.ts";
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
  expect(session).toEqual({ id: session.id, peer: node.id, kind: "wireguard", initiator: true });
  const told = await nodeControl.next("session");
  expect(told.session).toEqual({ id: session.id, peer: client.id, kind: "wireguard", initiator: false });
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
