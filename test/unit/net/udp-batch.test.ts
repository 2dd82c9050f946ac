import { expect, test } from "bun:test";
import { batchSender, runLength } from "../../../src/net/udp-batch.ts";
import { enlargeReceiveBuffer } from "../../../src/net/udp-options.ts";

const packets = (sizes: readonly number[]): Uint8Array[] =>
  sizes.map((size, index) => new Uint8Array(size).fill(index + 1));

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
