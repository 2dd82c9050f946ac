// The lab's long lines: when a frame comes out, in which order, and what a full line does.
import { describe, expect, test } from "bun:test";
import { DelayLine, protocolOf } from "../../../src/lab/delay.ts";

const frame = (n: number): Uint8Array => new Uint8Array([n]);

describe("DelayLine", () => {
  test("gives a frame back when its time has come, and not before", () => {
    const line = new DelayLine({ delayMs: 20, jitterMs: 0 });
    expect(line.dueAt).toBe(Number.POSITIVE_INFINITY);
    line.put(frame(1), 100);
    expect(line.dueAt).toBe(120);
    expect(line.take(119.9)).toBeNull();
    expect(line.take(120)).toEqual(frame(1));
    expect(line.take(1_000)).toBeNull();
  });

  test("keeps its own copy, as the reader uses one buffer for all frames", () => {
    const line = new DelayLine({ delayMs: 1, jitterMs: 0 });
    const buffer = frame(1);
    line.put(buffer, 0);
    buffer[0] = 2;
    expect(line.take(1)).toEqual(frame(1));
  });

  test("keeps the order whatever the jitter", () => {
    const draws = [1, 0, 0.5];
    const line = new DelayLine({ delayMs: 10, jitterMs: 8 }, () => draws.shift() ?? 0);
    for (const n of [1, 2, 3]) line.put(frame(n), n);
    expect(line.dueAt).toBe(1 + 10 + 8);
    expect([line.take(19), line.take(19), line.take(19)]).toEqual([frame(1), frame(2), frame(3)]);
  });

  test("loses what finds it full, and takes again when there is room", () => {
    const line = new DelayLine({ delayMs: 1, jitterMs: 0 });
    for (let n = 0; n < 10_000; n++) line.put(new Uint8Array([n & 255, n >> 8]), 0);
    let count = 0;
    while (line.take(1) !== null) count++;
    expect(count).toBe(8_192);
    line.put(frame(7), 2);
    expect(line.take(3)).toEqual(frame(7));
  });
});

test("protocolOf() reads the protocol in both families, and of nothing else", () => {
  const ethernet = (type: readonly [number, number], rest: readonly number[]): Uint8Array =>
    new Uint8Array([...Array.from({ length: 12 }, () => 2), ...type, ...rest]);
  expect(protocolOf(ethernet([8, 0], [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17]))).toBe(17);
  expect(protocolOf(ethernet([0x86, 0xdd], [0x60, 0, 0, 0, 0, 8, 6]))).toBe(6);
  expect(protocolOf(ethernet([8, 6], [0, 1, 8, 0, 6, 4, 0, 1, 2, 17]))).toBeNull();
  for (let length = 0; length < 23; length++) expect(protocolOf(ethernet([8, 0], []).subarray(0, length))).toBeNull();
});
