import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { toBase64Url } from "../../../src/base/bytes.ts";
import { type Endpoint, formatEndpoint, type IpAddress } from "../../../src/base/ip.ts";
import { natView, type Reflexive, StunClient } from "../../../src/peer/stun-client.ts";
import { bindingError, bindingSuccess, checkIntegrity, decodeStun, encodeStun } from "../../../src/proto/stun.ts";

const KEY = new Uint8Array(32).fill(3);
const CREDENTIAL = { user: "me", key: toBase64Url(KEY) };
const at = (address: string, port = 3478): Endpoint => ({ address: address as IpAddress, port });
const [ONE, TWO] = [at("203.0.113.10", 3478), at("203.0.113.10", 3479)];
const MAPPED = at("198.51.100.1", 40_000);

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

async function pass(ms: number): Promise<void> {
  for (let i = 0; i < ms; i += 10) {
    jest.advanceTimersByTime(10);
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  }
}

function answerTo(request: Uint8Array, key = KEY, mapped = MAPPED): Uint8Array {
  const id = decodeStun(request)?.transactionId ?? new Uint8Array(12);
  return encodeStun(bindingSuccess(id, { mapped }), { integrityKey: key });
}

/** A client, what it sent, and the outcome once it is there. */
function asking(servers: readonly Endpoint[], signal = new AbortController().signal) {
  const sent: { to: string; bytes: Uint8Array }[] = [];
  const client = new StunClient({ send: (bytes, to) => void sent.push({ to: formatEndpoint(to), bytes }) });
  const outcome: { done: readonly Reflexive[] | null; failed: unknown } = { done: null, failed: null };
  client.ask(servers, CREDENTIAL, signal).then(
    (done) => (outcome.done = done),
    (failed: unknown) => (outcome.failed = failed),
  );
  return { sent, client, outcome };
}

describe("StunClient", () => {
  test("asks under its name and key, and takes the answer", async () => {
    const { sent, client, outcome } = asking([ONE]);
    await pass(20);
    const [first] = sent;
    const request = first?.bytes ?? new Uint8Array(0);
    expect(checkIntegrity(request, KEY)).toBe(true);
    expect(decodeStun(request)?.attributes[0]).toEqual({ type: "username", text: "me" });
    expect(client.take(answerTo(request))).toBe(true);
    await pass(10);
    expect(outcome.done?.[0]?.mapped).toEqual(MAPPED);
    expect(sent).toHaveLength(1);
  });

  test("asks again, and gives up", async () => {
    const { sent, outcome } = asking([ONE]);
    await pass(1_000);
    expect(sent).toHaveLength(5);
    expect(outcome.done).toBeNull();
    await pass(600);
    expect(outcome.done).toEqual([{ server: ONE, mapped: null, rttMs: null }]);
  });

  test("bug: waits for an answer by satellite", async () => {
    const { sent, client, outcome } = asking([ONE]);
    await pass(800);
    client.take(answerTo(sent[0]?.bytes ?? new Uint8Array(0)));
    await pass(10);
    expect(outcome.done?.[0]?.mapped).toEqual(MAPPED);
    expect(outcome.done?.[0]?.rttMs).toBeGreaterThan(700);
  });

  test("bug: a silent server does not hold the others up", async () => {
    const { sent, client, outcome } = asking([ONE, TWO]);
    await pass(20);
    client.take(answerTo(sent.find((one) => one.to === formatEndpoint(TWO))?.bytes ?? new Uint8Array(0)));
    await pass(320);
    expect(outcome.done?.map(({ mapped }) => mapped)).toEqual([null, MAPPED]);
  });

  test("believes no other key, no error, no answer twice and none that nobody asked for", async () => {
    const { sent, client, outcome } = asking([ONE]);
    await pass(20);
    const request = sent[0]?.bytes ?? new Uint8Array(0);
    const id = decodeStun(request)?.transactionId ?? new Uint8Array(12);
    expect(client.take(answerTo(request, new Uint8Array(32)))).toBe(false);
    expect(client.take(encodeStun(bindingSuccess(id, { mapped: MAPPED })))).toBe(false);
    expect(client.take(encodeStun(bindingError(id, { code: 401 }), { integrityKey: KEY }))).toBe(false);
    expect(client.take(encodeStun(bindingSuccess(new Uint8Array(12), { mapped: MAPPED }), { integrityKey: KEY }))).toBe(
      false,
    );
    expect(client.take(request)).toBe(false);
    expect(client.take(new Uint8Array(5))).toBe(false);
    expect(client.take(answerTo(request))).toBe(true);
    await pass(10);
    expect(client.take(answerTo(request, KEY, at("192.0.2.1")))).toBe(false);
    expect(outcome.done?.[0]?.mapped).toEqual(MAPPED);
  });

  test("ends with the signal's reason", async () => {
    const controller = new AbortController();
    const { outcome } = asking([ONE, TWO], controller.signal);
    await pass(20);
    const reason = new Error("over");
    controller.abort(reason);
    await pass(10);
    expect(outcome.failed).toBe(reason);
  });

  test("asks nobody when there is nobody", async () => {
    const { outcome } = asking([]);
    await pass(10);
    expect(outcome.done).toEqual([]);
  });
});

describe("natView()", () => {
  const answer = (server: Endpoint, mapped: Endpoint | null): Reflexive => ({ server, mapped, rttMs: 1 });

  test("says whether UDP gets out, as what, and whether the port varies", () => {
    expect(natView([answer(ONE, null), answer(TWO, null)])).toEqual({
      udp: false,
      mapped4: null,
      mapped6: null,
      varies: null,
      servers: [{ address: ONE.address, rttMs: 1 }],
    });
    expect(natView([answer(ONE, MAPPED), answer(TWO, null)]).varies).toBeNull();
    expect(natView([answer(ONE, MAPPED), answer(TWO, MAPPED)]).varies).toBe(false);
    expect(natView([answer(ONE, MAPPED), answer(TWO, { ...MAPPED, port: 2 })]).varies).toBe(true);
  });

  test("keeps the families apart", () => {
    const six = at("2001:db8::1");
    expect(natView([answer(ONE, MAPPED), answer(at("2001:db8::9"), six)])).toEqual({
      udp: true,
      mapped4: MAPPED,
      mapped6: six,
      varies: null,
      servers: [
        { address: ONE.address, rttMs: 1 },
        { address: at("2001:db8::9").address, rttMs: 1 },
      ],
    });
  });

  test("gives each server the time of its quickest port, and none to one that is silent", () => {
    const timed = (server: Endpoint, rttMs: number | null): Reflexive => ({ server, mapped: null, rttMs });
    expect(natView([timed(ONE, 7), timed(TWO, 3), timed(at("2001:db8::9"), null)]).servers).toEqual([
      { address: ONE.address, rttMs: 3 },
      { address: at("2001:db8::9").address, rttMs: null },
    ]);
  });
});
