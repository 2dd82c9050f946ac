import { expect, test } from "bun:test";
import { addressedBatches, batchSender, runLength } from "../../../src/net/udp-batch.ts";
import { enlargeReceiveBuffer, socketOptions } from "../../../src/net/udp-options.ts";

const packets = (sizes: readonly number[]): Uint8Array[] =>
  sizes.map((size, index) => new Uint8Array(size).fill(index + 1));

/** Resolves when what was opened before has found the C library. */
async function quick(): Promise<void> {
  await socketOptions();
  await new Promise<void>((resolve) => void setImmediate(resolve));
}

test("runLength() takes packets of one size, and a shorter last one", () => {
  expect(runLength(packets([100, 100, 100]), 0)).toBe(3);
  expect(runLength(packets([100, 100, 60, 60]), 0)).toBe(3);
  expect(runLength(packets([100, 100, 60, 60]), 2)).toBe(2);
  expect(runLength(packets([60, 100, 100]), 0)).toBe(1);
  expect(runLength(packets([100]), 0)).toBe(1);
});

test("runLength() keeps within the kernel's 64 segments and within one datagram", () => {
  expect(runLength(packets(Array<number>(100).fill(96)), 0)).toBe(64);
  expect(runLength(packets(Array<number>(100).fill(1452)), 0)).toBe(45);
});

test("runLength() joins nothing to an empty packet", () => {
  expect(runLength(packets([100, 0, 100]), 0)).toBe(1);
});

test("batchSender() delivers each packet as a datagram of its own, in order, whatever the sizes", async () => {
  const received: Uint8Array[] = [];
  const wanted = packets([96, 96, 1452, 1452, 1452, 700, 148, 1452, 32, 2048, 96, ...Array<number>(150).fill(1400)]);
  const all = Promise.withResolvers<void>();
  const reader = await Bun.udpSocket({
    hostname: "127.0.0.1",
    port: 0,
    binaryType: "uint8array",
    socket: {
      data(_socket, packet) {
        received.push(packet.slice());
        if (received.length === wanted.length) all.resolve();
      },
    },
  });
  expect(await enlargeReceiveBuffer(reader, 4 << 20)).toBe(true);
  const writer = await Bun.udpSocket({
    hostname: "127.0.0.1",
    port: 0,
    connect: { hostname: "127.0.0.1", port: reader.port },
  });
  try {
    const send = await batchSender(writer);
    expect(send(wanted)).toBe(wanted.length);
    expect(send([])).toBe(0);
    await all.promise;
    expect(received).toEqual(wanted);
  } finally {
    writer.close();
    reader.close();
  }
});

test("addressedBatches() delivers to each destination its own datagrams, whole whatever was sent before, also while it is slow", async () => {
  const open = async () => {
    const received: number[][] = [];
    const socket = await Bun.udpSocket({
      hostname: "127.0.0.1",
      port: 0,
      binaryType: "uint8array",
      socket: { data: (_socket, packet) => void received.push([packet[0] ?? 0, packet.length]) },
    });
    await enlargeReceiveBuffer(socket, 4 << 20);
    return { socket, received, to: { port: socket.port, address: "127.0.0.1" } };
  };
  const [one, other, writer] = await Promise.all([open(), open(), open()]);
  const batches = addressedBatches(writer.socket);
  const wanted = packets([900, 900, 300, 1452, 32, 1200, 1200]);
  const expected: number[][] = [];
  for (let round = 0; round < 3; round++) {
    expect(batches.sendAll(wanted, one.to)).toBe(wanted.length);
    expect(batches.send(new Uint8Array(1452), other.to)).toBe(true);
    expected.push(...wanted.map((packet) => [packet[0] ?? 0, packet.length]));
    await quick();
  }
  while (one.received.length < expected.length || other.received.length < 3) await Bun.sleep(1);
  expect([one.received, other.received]).toEqual([expected, Array.from({ length: 3 }, () => [0, 1452])]);
  for (const { socket } of [one, other, writer]) socket.close();
});

test("addressedBatches() gives what the kernel refuses as not sent, and goes on", async () => {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  const batches = addressedBatches(socket);
  await quick();
  const nowhere = { port: 9, address: "203.0.113.1" }; // from a loopback address there is no way out
  expect(batches.sendAll(packets([100, 100]), nowhere)).toBe(0);
  expect(batches.send(new Uint8Array(100), nowhere)).toBe(false);
  expect(batches.sendAll(packets([100, 100]), { port: socket.port, address: "127.0.0.1" })).toBe(2);
  socket.close();
});

test("batchSender() falls back to single datagrams by a socket without a file descriptor", async () => {
  const sent: Uint8Array[] = [];
  const send = await batchSender({
    send: () => false,
    sendMany(many) {
      sent.push(...many);
      return many.length;
    },
  });
  const wanted = packets([100, 100, 50]);
  expect(send(wanted)).toBe(3);
  expect(sent).toEqual(wanted);
});
