import { expect, test } from "bun:test";
import { parseEndpoint } from "../../../../src/base/ip.ts";
import { silentLogger } from "../../../../src/base/log.ts";
import { leaseKey, type RelayChange, type RelayReading } from "../../../../src/net/relay-table.ts";
import { KernelRelay } from "../../../../src/server/udp-relay/kernel.ts";
import type { Link } from "../../../../src/server/udp-relay/state.ts";

const at = (text: string) => parseEndpoint(text) ?? { address: "0.0.0.0" as never, port: 1 };
const A = at("192.0.2.1:1");
const B = at("198.51.100.2:2");
const C = at("198.51.100.2:3");
const AB: Link = { ends: [A, B] };
const AC: Link = { ends: [A, C] };

class FakeTable {
  readonly changes: RelayChange[] = [];
  reading: RelayReading = { leases: [], passed: 0 };
  failsWith: Error | null = null;
  resets = 0;

  async change(change: RelayChange): Promise<void> {
    if (this.failsWith !== null) throw this.failsWith;
    this.changes.push(change);
    await Promise.resolve();
  }

  read(): Promise<RelayReading> {
    return Promise.resolve(this.reading);
  }

  reset(): Promise<void> {
    this.resets++;
    return Promise.resolve();
  }
}

function made(reserved: readonly number[] = []) {
  const table = new FakeTable();
  const families = new Set([4, 6] as const);
  return { table, relay: new KernelRelay({ table, families, reserved: new Set(reserved), log: silentLogger }) };
}

test("KernelRelay puts changes that come together into one transaction, and only the last word of each port", async () => {
  const { table, relay } = made();
  await Promise.all([relay.set(1, []), relay.set(1, [AB]), relay.set(2, []), relay.set(1, [AC])]);
  expect(table.changes).toEqual([{ open: [1, 2], close: [], put: [{ port: 1, ends: AC.ends }], remove: [] }]);
});

test("KernelRelay replaces what moved and takes away what ended", async () => {
  const { table, relay } = made();
  await relay.set(1, [AB]);
  await relay.set(1, [AC]);
  await relay.close(1);
  expect(table.changes.slice(1)).toEqual([
    { open: [], close: [], put: [{ port: 1, ends: AC.ends }], remove: [{ port: 1, ends: AB.ends }] },
    { open: [], close: [1], put: [], remove: [{ port: 1, ends: AC.ends }] },
  ]);
});

test("KernelRelay renews only what is in the table, and counts what leases let in, over renewals", async () => {
  const { table, relay } = made([9]);
  await relay.set(1, [AB]);
  const lease = (bytes: number) => [{ key: leaseKey(1, A), packets: 1, bytes }];
  table.reading = { leases: lease(100), passed: 1 };
  await relay.tend();
  table.reading = { leases: lease(150), passed: 2 };
  relay.renew(1, [AB, AC]);
  await relay.tend();
  expect(table.changes.at(-1)).toEqual({ keep: [1], renew: [{ port: 1, ends: AB.ends }] });
  // The renewed element counts from zero.
  table.reading = { leases: lease(30), passed: 3 };
  await relay.tend();
  expect(relay.bytes).toBe(180);
  expect([relay.isReserved(9), relay.isReserved(1)]).toEqual([true, false]);
});

test("KernelRelay tells a session's meter what was passed on, also what came just before a link or the session ended", async () => {
  const { table, relay } = made();
  const told: number[] = [];
  relay.meter(1, (bytes) => void told.push(bytes));
  await relay.set(1, [AB]);
  const lease = (bytes: number) => [
    { key: leaseKey(1, A), packets: 1, bytes },
    { key: leaseKey(7, A), packets: 1, bytes: 5000 }, // of an earlier process
  ];
  table.reading = { leases: lease(100), passed: 1 };
  await relay.tend();
  table.reading = { leases: lease(130), passed: 2 };
  await relay.set(1, [AC]);
  expect(told).toEqual([100, 30]);
  table.reading = { leases: [{ key: leaseKey(1, C), packets: 1, bytes: 7 }], passed: 3 };
  await relay.close(1);
  expect(told).toEqual([100, 30, 7]);
});

test("KernelRelay leaves it to the process to count what ends of two families send", async () => {
  const { table, relay } = made();
  const told: number[] = [];
  relay.meter(1, (bytes) => void told.push(bytes));
  await relay.set(1, [{ ends: [A, at("[2001:db8::2]:2")] }]);
  table.reading = { leases: [{ key: leaseKey(1, A), packets: 9, bytes: 900 }], passed: 0 };
  await relay.tend();
  expect([told, relay.bytes, relay.isOn]).toEqual([[], 0, true]);
});

test("KernelRelay: a renewal under way does not put back what ends meanwhile", async () => {
  const { table, relay } = made();
  await relay.set(1, [AB]);
  relay.renew(1, [AB]);
  const reading = Promise.withResolvers<RelayReading>();
  table.read = () => reading.promise;
  const tending = relay.tend();
  const closing = relay.close(1);
  reading.resolve({ leases: [], passed: 0 });
  await Promise.all([tending, closing]);
  const last = table.changes.at(-1);
  expect([last?.close, last?.remove, last?.renew]).toEqual([[1], [{ port: 1, ends: AB.ends }], undefined]);
});

test("KernelRelay gives up when packets come in and none goes out", async () => {
  const { table, relay } = made();
  await relay.set(1, [AB]);
  const lease = (packets: number) => [{ key: leaseKey(1, A), packets, bytes: 100 * packets }];
  // What happened before the first look, and what went out again, says nothing.
  for (const [packets, passed] of [
    [500, 5],
    [505, 5],
    [600, 6],
    [615, 6],
  ] as const) {
    table.reading = { leases: lease(packets), passed };
    await relay.tend();
    expect(relay.isOn).toBe(true);
  }
  table.reading = { leases: lease(616), passed: 6 };
  await relay.tend();
  expect(relay.isOn).toBe(false);
  expect(table.resets).toBe(1);
  await relay.set(2, [AB]); // resolves: the process does it
  expect(table.changes.flatMap((change) => change.open ?? [])).toEqual([1]);
});

test("KernelRelay gives up when a change is refused, and takes its tables away", async () => {
  const { table, relay } = made();
  table.failsWith = new Error("refused");
  await relay.set(1, [AB]);
  expect(relay.isOn).toBe(false);
  expect(table.resets).toBe(1);
});

test("KernelRelay is silent after its end", async () => {
  const { table, relay } = made();
  await relay.dispose();
  await relay.set(1, [AB]);
  await relay.tend();
  expect(table.changes).toEqual([]);
  expect(table.resets).toBe(0);
});
