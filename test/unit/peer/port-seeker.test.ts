import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import { PortSeeker } from "../../../src/peer/port-seeker.ts";
import type { MachineId } from "../../../src/proto/keys.ts";

const ADDRESS = "198.51.100.1" as IpAddress;
const OTHER = "198.51.100.2" as IpAddress;

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

async function pass(ms: number): Promise<void> {
  for (let gone = 0; gone < ms; gone++) {
    jest.advanceTimersByTime(1);
    await Promise.resolve();
  }
}

function made(seeker = new PortSeeker(), peer = "a", count = 2_048) {
  const sent: number[] = [];
  const state = { isOver: false, ended: null as number | null };
  const ports = Array.from({ length: count }, (_, i) => i + 1).values();
  const send = (): void => void sent.push(performance.now());
  const isOver = (): boolean => state.isOver;
  const done = seeker.seek({ peer: peer as MachineId, address: ADDRESS, ports, send, isOver });
  void done.then((probes) => (state.ended = probes));
  return { seeker, sent, state };
}

/** Of all of them together. */
function mostInASecond(sent: readonly number[]): number {
  return Math.max(...sent.map((from) => sent.filter((at) => at >= from && at - from < 1_000).length));
}

describe("PortSeeker", () => {
  test("sends all within five seconds, and never more than 512 in one", async () => {
    const { sent, state } = made();
    await pass(5_000);
    expect([sent.length, state.ended]).toEqual([2_048, 2_048]);
    expect(mostInASecond(sent)).toBeLessThanOrEqual(512);
  });

  test("has one pace for all peers, and takes only so many at once", async () => {
    const { seeker, sent } = made();
    const others = ["b", "c", "d"].map((peer) => made(seeker, peer));
    expect(seeker.maySeek("e" as MachineId, ADDRESS)).toBe(false);
    await pass(3_000);
    const all = [sent, ...others.map((one) => one.sent)];
    expect(mostInASecond(all.flat())).toBeLessThanOrEqual(512);
    expect(Math.max(...all.map(({ length }) => length)) - Math.min(...all.map(({ length }) => length))).toBeLessThan(3);
  });

  test("after a pause of the process there is no burst", async () => {
    const { sent } = made();
    await pass(100);
    const before = sent.length;
    jest.setSystemTime(Date.now() + 60_000);
    await pass(21);
    expect(sent.length - before).toBeLessThanOrEqual(20);
  });

  test("ends at the first answer, and may seek that peer again at once", async () => {
    const { seeker, sent, state } = made();
    await pass(500);
    state.isOver = true;
    await pass(50);
    const before = sent.length;
    expect(state.ended).toBe(before);
    await pass(1_000);
    expect(sent.length).toBe(before);
    expect(seeker.maySeek("a" as MachineId, ADDRESS)).toBe(true);
  });

  test("what was in vain is not done again for four minutes, unless a network changed", async () => {
    const { seeker } = made(new PortSeeker(), "a", 5);
    const may = (address: IpAddress): boolean => seeker.maySeek("a" as MachineId, address);
    expect(may(OTHER)).toBe(false); // it is under way
    await pass(100);
    expect([may(ADDRESS), may(OTHER)]).toEqual([false, true]);
    seeker.networkChanged();
    expect(may(ADDRESS)).toBe(true);
    made(seeker, "a", 5);
    await pass(239_000);
    expect(may(ADDRESS)).toBe(false);
    await pass(1_500);
    expect(may(ADDRESS)).toBe(true);
  });

  test("leaves no timer behind", async () => {
    const { seeker, sent, state } = made();
    await pass(100);
    seeker.close();
    await pass(10);
    expect(state.ended).toBe(sent.length);
    const before = sent.length;
    await pass(1_000);
    expect(sent.length).toBe(before);
  });
});
