// A quota of relayed traffic on a real server: counted over both relays, kept over a restart, told to both ends, given back.
import { afterEach, beforeEach, expect, setSystemTime, test } from "bun:test";
import { rm } from "node:fs/promises";
import { parseIp } from "../../src/base/ip.ts";
import { silentLogger } from "../../src/base/log.ts";
import type { Session } from "../../src/proto/control.ts";
import { udpRelay, type UdpRelay } from "../../src/server/udp-relay/service.ts";
import { latched } from "./relay-end.ts";
import {
  enrolMachine,
  frameOf,
  introduce,
  openRelay,
  startServer,
  temporaryDir,
  type TestControl,
  type TestMachine,
  type TestServer,
  until,
} from "./server-support.ts";

const HERE = parseIp("127.0.0.1") ?? ("" as never);
const QUOTA = { limitBytes: 100_000, period: "month" } as const;
/** Ten packets that together are a tenth of the quota. */
const TENTH = frameOf(
  1,
  Array.from({ length: 10 }, () => 998),
).length;

let stateDir: string;
let relay: UdpRelay;
let server: TestServer;

beforeEach(async () => {
  stateDir = await temporaryDir();
  await start();
});
afterEach(async () => {
  setSystemTime();
  await stop();
  await rm(stateDir, { recursive: true, force: true });
});

async function start(limitBytes: number = QUOTA.limitBytes): Promise<void> {
  const places = [{ local: HERE, public: HERE }];
  relay = udpRelay({ kernel: null, log: silentLogger }, { places, ports: { first: 43_000, last: 43_999 } });
  const relayQuota = { ...QUOTA, limitBytes };
  server = await startServer({ stateDir, keepState: true, udpRelay: relay, server: { relayQuota } });
}

async function stop(): Promise<void> {
  await server[Symbol.asyncDispose]();
  await relay[Symbol.asyncDispose]();
}

const withheldOf = (control: TestControl): Session["withheld"][] =>
  control.messages.flatMap((message) => (message.type === "session" ? [message.session.withheld] : []));
const relayedOf = (machine: TestMachine) => server.server.machines().find((one) => one.id === machine.id)?.relayed;

async function session(client: TestMachine, node: TestMachine, serial = 1n) {
  const [a, b] = [await introduce(server, client, serial), await introduce(server, node, serial)];
  a.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
  const forClient = (await a.next("connected")).session;
  const forNode = (await b.next("session")).session;
  const [from, to] = [await openRelay(server, client), await openRelay(server, node)];
  return { a, b, from, to, forClient, forNode };
}

test("what both relays passed on counts, and a machine that used it up has no relay until the month ends", async () => {
  const client = await enrolMachine(server, "client", "laptop");
  const node = await enrolMachine(server, "node", "home");
  const { a, b, from, to, forClient, forNode } = await session(client, node);
  expect(forClient.withheld).toBeUndefined();

  // Half of it by UDP, which is open until the quota is used up,
  const [one, other] = [await latched(forClient), await latched(forNode)];
  const packet = new Uint8Array(1000);
  packet[0] = 4;
  const arrived = () => other.heard.filter(({ bytes }) => bytes.length === 1000).length;
  await until(() => {
    one.send(packet, one.port);
    return arrived() >= 50;
  });
  await until(() => (relayedOf(client)?.bytes ?? 0) >= 50_000);
  // and the rest by the WebSocket.
  const frame = frameOf(
    forClient.id,
    Array.from({ length: 10 }, () => 998),
  );
  expect(frame.length).toBe(TENTH);
  await until(() => {
    if (relayedOf(client)?.usedUp !== true) from.ws.send(frame);
    return withheldOf(a).length === 1 && withheldOf(b).length === 2;
  });
  const told = withheldOf(a)[0];
  expect(told).toMatchObject({ code: "relay-quota" });
  expect(told?.text).toBe('"laptop" and "home" have used up the 100 kB that a machine may have relayed this month');
  expect(withheldOf(b)[1]).toEqual(told);
  expect(server.server.sessions()[0]).toMatchObject({ withheld: told?.text });
  expect(server.server.sessions()[0]?.udpBytes).toBeGreaterThanOrEqual(50_000);
  expect(server.server.status().health.map(({ code, text }) => `${code} ${text.split(" ")[0]}`)).toEqual([
    'relay-quota "laptop"',
    'relay-quota "home"',
  ]);

  // Neither relay carries anything now; another pair's do.
  const [frames, datagrams] = [to.frames.length, arrived()];
  for (let i = 0; i < 5; i++) {
    from.ws.send(frame);
    one.send(packet, one.port);
  }
  const others = await session(
    await enrolMachine(server, "client", "tablet"),
    await enrolMachine(server, "node", "office"),
  );
  expect(others.forClient.withheld).toBeUndefined();
  others.from.ws.send(frameOf(others.forClient.id, [100]));
  await until(() => others.to.frames[0]);
  expect([to.frames.length, arrived()]).toEqual([frames, datagrams]);
  expect(server.server.prometheus()).toMatch(/dropped_frames_total\{reason="quota"\} [1-9]/);

  // A new month, and both relays go on by themselves.
  setSystemTime(new Date((told?.untilMs ?? 0) + 1000));
  await until(() => withheldOf(a).length === 2 && withheldOf(b).length === 3);
  expect([withheldOf(a)[1], withheldOf(b)[2]]).toEqual([undefined, undefined]);
  from.ws.send(frame);
  await until(() => to.frames.length > frames);
  await until(() => {
    one.send(packet, one.port);
    return arrived() > datagrams;
  });
  for (const { socket } of [one, other]) socket.close();
});

test("what was used is kept over a restart, and a session that begins used up is told so at once", async () => {
  const client = await enrolMachine(server, "client", "laptop");
  const node = await enrolMachine(server, "node", "home");
  const first = await session(client, node);
  const frame = frameOf(
    first.forClient.id,
    Array.from({ length: 10 }, () => 998),
  );
  for (let i = 0; i < 12; i++) first.from.ws.send(frame);
  await until(() => first.to.frames.length === 12 || withheldOf(first.a).length === 1);
  const used = await until(() => (relayedOf(client)?.usedUp === true ? relayedOf(client)?.bytes : null));
  await stop();
  await start();
  expect(relayedOf(client)?.bytes).toBe(used);
  const second = await session(client, node, 2n);
  expect(second.forClient.withheld?.code).toBe("relay-quota");
  expect(second.forNode.withheld).toEqual(second.forClient.withheld);
  second.from.ws.send(frameOf(second.forClient.id, [100]));
  await until(() => /reason="quota"\} 1$/m.test(server.server.prometheus()));
  expect(second.to.frames).toEqual([]);
  // Whoever may have more next time has it at once.
  await stop();
  await start(QUOTA.limitBytes * 10);
  const third = await session(client, node, 3n);
  expect(third.forClient.withheld).toBeUndefined();
  third.from.ws.send(frameOf(third.forClient.id, [100]));
  await until(() => third.to.frames[0]);
});
