import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { toBase64Url } from "../../../src/base/bytes.ts";
import type { Endpoint, IpAddress } from "../../../src/base/ip.ts";
import { idleMsFor, Keepalive } from "../../../src/peer/keepalive.ts";
import { GAPS_MS, measureMappingLife } from "../../../src/peer/mapping-life.ts";
import { stunAnswer } from "../../../src/server/stun.ts";
import { FakeDiscovery, SILENT } from "./fake-discovery.ts";

const KEY = new Uint8Array(32).fill(7);
const CREDENTIAL = { user: "me", key: toBase64Url(KEY) };
const SERVER: Endpoint = { address: "203.0.113.10" as IpAddress, port: 3478 };
const OURS = "198.51.100.1";
const USERS = { keyOf: () => KEY, note: (): void => undefined };

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

async function pass(ms: number): Promise<void> {
  for (let gone = 0; gone < ms; gone += 50) {
    jest.advanceTimersByTime(50);
    for (let i = 0; i < 10; i++) await Promise.resolve();
  }
}

/** A router that forgets a mapping after so long, before a real STUN responder; and how many ports are open. */
function router(lifeMs: number, options: { lose?: () => boolean; old?: boolean } = {}) {
  const state = { open: 0, sent: 0 };
  const spokenAt = new Map<number, number>();
  const receivers = new Map<number, (bytes: Uint8Array, from: Endpoint) => void>();
  let next = 40_000;
  const openSide = (receive: (bytes: Uint8Array, from: Endpoint) => void) => {
    const port = next++;
    receivers.set(port, receive);
    state.open++;
    return Promise.resolve({
      port,
      send(bytes: Uint8Array) {
        state.sent++;
        spokenAt.set(port, performance.now());
        const answer = stunAnswer(bytes, { address: OURS, port }, options.old === true ? null : USERS);
        if (answer === null || options.lose?.() === true) return true;
        const age = performance.now() - (spokenAt.get(answer.port) ?? Number.NEGATIVE_INFINITY);
        if (age <= lifeMs) receivers.get(answer.port)?.(answer.bytes, SERVER);
        return true;
      },
      sendMany: () => 0,
      families: [4 as const],
      [Symbol.asyncDispose]: () => Promise.resolve(void state.open--),
    });
  };
  return { state, openSide };
}

async function measured(lifeMs: number, options: Parameters<typeof router>[1] = {}) {
  const { state, openSide } = router(lifeMs, options);
  const controller = new AbortController();
  let result: number | null | undefined;
  const done = measureMappingLife({ openSide }, { server: SERVER, credential: CREDENTIAL }, controller.signal).then(
    (life) => void (result = life),
  );
  await pass(40_000);
  await done;
  return { result, state };
}

describe("measureMappingLife()", () => {
  for (const [lifeMs, found] of [
    [1_000, 0],
    [3_000, 2_500],
    [6_000, 5_000],
    [20_000, 19_000],
    [30_000, 28_000],
    [600_000, 28_000],
  ] as const) {
    test(`finds that a router which forgets after ${lifeMs / 1000} s keeps a mapping for ${found / 1000} s`, async () => {
      const { result, state } = await measured(lifeMs);
      expect(result).toBe(found);
      expect(state.open).toBe(0);
      expect(state.sent).toBeLessThan(40);
    });
  }

  test("finds the same when every third packet is lost", async () => {
    let n = 0;
    expect((await measured(20_000, { lose: () => n++ % 3 === 0 })).result).toBe(19_000);
  });

  test("does not know with a server that answers at no other port, or not at all", async () => {
    expect((await measured(20_000, { old: true })).result).toBeNull();
    const { result, state } = await measured(20_000, { lose: () => true });
    expect([result, state.open]).toEqual([null, 0]);
  });

  test("ends with its signal, and leaves no port open", async () => {
    const { state, openSide } = router(600_000);
    const controller = new AbortController();
    const question = { server: SERVER, credential: CREDENTIAL };
    const done = measureMappingLife({ openSide }, question, controller.signal).catch((thrown: unknown) => thrown);
    await pass(10_000);
    expect(state.open).toBeGreaterThan(GAPS_MS.length);
    controller.abort(new Error("enough"));
    expect(await done).toMatchObject({ message: "enough" });
    expect(state.open).toBe(0);
  });
});

describe("idleMsFor()", () => {
  test("stays below what the router keeps, with room for a lost packet, and within its bounds", () => {
    for (const random of [0, 0.5, 1]) {
      for (const lifeMs of GAPS_MS) {
        const idleMs = idleMsFor(lifeMs, random);
        expect(idleMs).toBeLessThanOrEqual(0.8 * lifeMs);
        expect(idleMs).toBeGreaterThanOrEqual(1_800);
      }
      expect(idleMsFor(0, random)).toBeGreaterThanOrEqual(1_800);
      expect(idleMsFor(600_000, random)).toBeLessThanOrEqual(25_000);
    }
    expect([0, 0.5, 1].map((random) => idleMsFor(null, random))).toEqual([17_000, 20_000, 23_000]);
  });
});

describe("Keepalive", () => {
  async function following(lifeMs: number) {
    const { state, openSide } = router(lifeMs);
    const discovery = new FakeDiscovery();
    Object.assign(discovery, { openSide });
    const changes: (number | null)[] = [];
    const controller = new AbortController();
    const keepalive: Keepalive = new Keepalive(
      { discovery, log: SILENT, onChange: () => void changes.push(keepalive.lifeMs) },
      controller.signal,
    );
    const answers = [{ server: SERVER, mapped: { address: OURS as IpAddress, port: 1 }, rttMs: 1 }];
    keepalive.follow(answers, CREDENTIAL);
    return { keepalive, state, changes, again: () => keepalive.follow(answers, CREDENTIAL), controller };
  }

  test("measures once, speaks often meanwhile, and then as often as it has to", async () => {
    const { keepalive, changes, state, again, controller } = await following(6_000);
    expect(keepalive.idleMs).toBe(2_500);
    await pass(30_000);
    expect(changes).toEqual([5_000]);
    expect(keepalive.idleMs).toBeLessThanOrEqual(4_000);
    expect(keepalive.wireGuardS).toBe(3);
    const { sent } = state;
    again();
    await pass(30_000);
    expect(state.sent).toBe(sent);
    keepalive.networkChanged();
    expect([keepalive.lifeMs, changes.at(-1)]).toEqual([null, null]);
    again();
    await pass(30_000);
    expect(changes.at(-1)).toBe(5_000);
    controller.abort(new Error("over"));
    await keepalive[Symbol.asyncDispose]();
  });

  test("believes nothing that it began to measure in another network", async () => {
    const { keepalive, changes, controller, state } = await following(6_000);
    await pass(5_000);
    keepalive.networkChanged();
    await pass(30_000);
    expect([changes, keepalive.lifeMs, state.open]).toEqual([[], null, 0]);
    expect(keepalive.idleMs).toBeGreaterThanOrEqual(17_000);
    controller.abort(new Error("over"));
    await keepalive[Symbol.asyncDispose]();
  });
});
