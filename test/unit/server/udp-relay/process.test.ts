import { expect, test } from "bun:test";
import { type Endpoint, parseEndpoint } from "../../../../src/base/ip.ts";
import { forwardCounters, ProcessForwarding } from "../../../../src/server/udp-relay/process.ts";

const at = (text: string): Endpoint => parseEndpoint(text) ?? { address: "0.0.0.0" as never, port: 1 };
const A = at("192.0.2.1:1");
const B = at("198.51.100.2:2");
const B6 = at("[2001:db8::2]:2");
const packet = (n: number, size = 100): Uint8Array => new Uint8Array(size).fill(n, 4).with(0, 4);

const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

function made(takes = Number.POSITIVE_INFINITY) {
  const sent: [Endpoint, number[]][] = [];
  const counters = forwardCounters();
  const socket = {
    sendAll(packets: readonly Uint8Array[], to: Endpoint) {
      sent.push([to, packets.map((one) => one[5] ?? 0)]);
      return Math.min(takes, packets.length);
    },
  };
  return { forwarding: new ProcessForwarding({ socketFor: () => socket, counters }), counters, sent };
}

const from = (end: Endpoint, text: string = end.address) => ({ port: end.port, text });

test("ProcessForwarding sends what came in one turn with one call for each end, in order", async () => {
  const { forwarding, counters, sent } = made();
  forwarding.set([{ ends: [A, B] }]);
  for (const n of [1, 2]) forwarding.forward(packet(n), from(A));
  forwarding.forward(packet(9), from(B));
  forwarding.forward(packet(3), from(A));
  expect(sent).toEqual([]);
  await turn();
  expect(sent).toEqual([
    [B, [1, 2, 3]],
    [A, [9]],
  ]);
  expect([counters.packets, counters.bytes, forwarding.bytes]).toEqual([4, 400, 400]);
});

test("ProcessForwarding knows an end however its socket writes the address, and nobody else", async () => {
  const { forwarding, counters, sent } = made();
  forwarding.set([{ ends: [A, B6] }]);
  for (const text of ["2001:db8::2", "2001:DB8:0::2"]) forwarding.forward(packet(1), from(B6, text));
  for (const stranger of [from(B), from(A, "192.0.2.9"), { port: 9, text: A.address }, from(A, "nonsense")]) {
    forwarding.forward(packet(2), stranger);
    expect(forwarding.isLinked(stranger)).toBe(false);
  }
  forwarding.forward(packet(3, 31), from(A));
  forwarding.forward(packet(3).with(0, 5), from(A));
  await turn();
  expect(sent).toEqual([[A, [1, 1]]]);
  expect(counters.dropped).toEqual({ unlatched: 4, "not-wireguard": 2, unsent: 0 });
});

test("ProcessForwarding sends what is waiting before its links change, and nothing by the old ones after that", async () => {
  const { forwarding, counters, sent } = made();
  forwarding.set([{ ends: [A, B] }]);
  forwarding.forward(packet(1), from(A));
  forwarding.set([{ ends: [A, B6] }]);
  forwarding.forward(packet(2), from(A));
  forwarding.forward(packet(3), from(B));
  await turn();
  expect(sent).toEqual([
    [B, [1]],
    [B6, [2]],
  ]);
  expect(counters.dropped.unlatched).toBe(1);
});

test("ProcessForwarding counts what the kernel did not take", async () => {
  const { forwarding, counters } = made(1);
  forwarding.set([{ ends: [A, B] }]);
  for (const n of [1, 2, 3]) forwarding.forward(packet(n), from(A));
  await turn();
  expect(counters.dropped.unsent).toBe(2);
});
