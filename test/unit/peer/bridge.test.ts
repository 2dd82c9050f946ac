import { afterEach, expect, test } from "bun:test";
import { type Bridge, openBridge } from "../../../src/peer/bridge.ts";
import type { PacketSink } from "../../../src/peer/relay-link.ts";
import { frameSession, framePackets } from "../../../src/proto/relay-frame.ts";

const stack: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of stack.splice(0).reverse()) await end();
});

/** What the bridge hands to the relay, and what the relay would hand to the bridge. */
class FakeRelay {
  readonly frames: Uint8Array[] = [];
  readonly sinks = new Map<number, PacketSink>();

  send(frame: Uint8Array): void {
    this.frames.push(frame.slice());
  }
  attach(session: number, sink: PacketSink): void {
    this.sinks.set(session, sink);
  }
  detach(session: number): void {
    this.sinks.delete(session);
  }

  get packets(): Uint8Array[] {
    return this.frames.flatMap((frame) => framePackets(frame));
  }
}

/** Stands where WireGuard listens: a real socket on loopback. */
async function wireGuardSocket() {
  const received: Uint8Array[] = [];
  const socket = await Bun.udpSocket({
    hostname: "127.0.0.1",
    port: 0,
    binaryType: "uint8array",
    socket: { data: (_socket, packet) => void received.push(packet.slice()), error: () => undefined },
  });
  stack.push(() => socket.close());
  return { socket, received };
}

async function made() {
  const wireGuard = await wireGuardSocket();
  const relay = new FakeRelay();
  const bridge = await openBridge({ wireGuardPort: wireGuard.socket.port, relay });
  stack.push(() => bridge[Symbol.asyncDispose]());
  const send = (packet: Uint8Array): boolean =>
    wireGuard.socket.send(packet, bridge.endpoint.port, bridge.endpoint.address);
  return { ...wireGuard, relay, bridge, send };
}

function data(size: number, fill = 7): Uint8Array {
  const packet = new Uint8Array(size).fill(fill);
  packet.set([4, 0, 0, 0]);
  return packet;
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await Bun.sleep(1);
}

test("openBridge() carries WireGuard's packets into frames of the session", async () => {
  const { bridge, relay, send } = await made();
  bridge.setSession(0xfedc_ba98);
  send(data(100));
  send(data(1452, 9));
  await until(() => relay.packets.length === 2);
  expect(relay.packets).toEqual([data(100), data(1452, 9)]);
  expect(relay.frames.map(frameSession)).toEqual(relay.frames.map(() => 0xfedc_ba98));
  expect(bridge.dropped).toBe(0);
});

test("openBridge() injects what came by another socket, and the relay has not brought it", async () => {
  const wireGuard = await wireGuardSocket();
  const relay = new FakeRelay();
  let relayed = 0;
  const bridge = await openBridge({ wireGuardPort: wireGuard.socket.port, relay, onRelayed: () => void relayed++ });
  stack.push(() => bridge[Symbol.asyncDispose]());
  bridge.setSession(1);
  bridge.inject([data(100), data(1452, 9)]);
  await until(() => wireGuard.received.length === 2);
  expect(wireGuard.received).toEqual([data(100), data(1452, 9)]);
  relay.sinks.get(1)?.([data(50)]);
  await until(() => wireGuard.received.length === 3);
  expect(relayed).toBe(1);
});

test("openBridge() carries a frame's packets to WireGuard, from its own endpoint", async () => {
  const { bridge, relay, received } = await made();
  bridge.setSession(5);
  relay.sinks.get(5)?.([data(64), data(1400, 3)]);
  await until(() => received.length === 2);
  expect(received).toEqual([data(64), data(1400, 3)]);
});

test("openBridge() drops and counts packets while there is no session", async () => {
  const { bridge, relay, send } = await made();
  send(data(100));
  await until(() => bridge.dropped === 1);
  bridge.setSession(5);
  send(data(200));
  await until(() => relay.packets.length === 1);
  bridge.setSession(null);
  send(data(300));
  await until(() => bridge.dropped === 2);
  expect(relay.packets).toEqual([data(200)]);
  expect(relay.sinks.size).toBe(0);
});

test("openBridge() hears one session only, the last that was set", async () => {
  const { bridge, relay } = await made();
  bridge.setSession(5);
  bridge.setSession(6);
  bridge.setSession(6);
  expect([...relay.sinks.keys()]).toEqual([6]);
});

test("openBridge() drops and counts what does not look like WireGuard", async () => {
  const { bridge, relay, send } = await made();
  bridge.setSession(5);
  const wrong = [
    data(31),
    data(2049),
    new Uint8Array(100),
    data(100).with(1, 1),
    data(150).with(0, 1),
    new Uint8Array(0),
  ];
  for (const packet of wrong) send(packet);
  send(data(100));
  await until(() => relay.packets.length === 1 && bridge.dropped === wrong.length);
});

test("openBridge() splits what is more than one frame", async () => {
  const { bridge, relay, send } = await made();
  bridge.setSession(5);
  const count = 40; // more than one frame holds, less than the socket's buffer
  for (let i = 0; i < count; i++) send(data(2048, i));
  await until(() => relay.packets.length === count);
  expect(relay.packets.map((packet) => packet[4])).toEqual(Array.from({ length: count }, (_, i) => i));
  for (const frame of relay.frames) expect(frame.length).toBeLessThanOrEqual(65_536);
});

test("openBridge() takes no packet from anybody but its WireGuard", async () => {
  const { bridge, relay, send } = await made();
  bridge.setSession(5);
  const stranger = await wireGuardSocket();
  stranger.socket.send(data(64, 1), bridge.endpoint.port, bridge.endpoint.address);
  send(data(64, 2));
  await until(() => relay.packets.length > 0);
  expect(relay.packets).toEqual([data(64, 2)]);
});

test("openBridge() outlives a WireGuard that is not up", async () => {
  const gone = await wireGuardSocket();
  const port = gone.socket.port;
  gone.socket.close();
  const relay = new FakeRelay();
  const bridge: Bridge = await openBridge({ wireGuardPort: port, relay });
  stack.push(() => bridge[Symbol.asyncDispose]());
  bridge.setSession(5);
  const sink = relay.sinks.get(5);
  for (let i = 0; i < 20; i++) {
    sink?.([data(64), data(64)]); // the kernel's "refused" for an earlier packet comes with a later one
    await Bun.sleep(1);
  }
  const back = await Bun.udpSocket({ hostname: "127.0.0.1", port, socket: { data: () => void heard++ } });
  stack.push(() => back.close());
  let heard = 0;
  while (heard === 0) {
    sink?.([data(64)]);
    await Bun.sleep(1);
  }
  expect(bridge.endpoint.port).toBeGreaterThan(0);
});

test("a bridge that was disposed of hears its session no more, and may be disposed of twice", async () => {
  const { bridge, relay } = await made();
  bridge.setSession(5);
  await bridge[Symbol.asyncDispose]();
  expect(relay.sinks.size).toBe(0);
  await bridge[Symbol.asyncDispose]();
});
