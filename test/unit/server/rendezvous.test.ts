import { afterEach, beforeEach, expect, jest, test } from "bun:test";
import type { ServerMessage } from "../../../src/proto/control.ts";
import type { Candidate } from "../../../src/proto/path.ts";
import { RelayPorts } from "../../../src/server/relay/port.ts";
import { Sessions } from "../../../src/server/relay/sessions.ts";
import { type Channel, passable, Rendezvous } from "../../../src/server/rendezvous.ts";
import { RoundTrip } from "../../../src/server/control/round-trip.ts";
import { Sightings } from "../../../src/server/sightings.ts";
import { machineId } from "./values.ts";

const [A, B, C] = [machineId(1), machineId(2), machineId(3)];
const HOST: Candidate = { kind: "host", endpoint: "192.168.1.2:51820" };

class FakeChannel implements Channel {
  readonly sent: ServerMessage[] = [];
  readonly roundTripMs: number | null;

  constructor(roundTripMs: number | null) {
    this.roundTripMs = roundTripMs;
  }

  send(message: ServerMessage): void {
    this.sent.push(message);
  }

  get punches(): number[] {
    return this.sent.flatMap((message) => (message.type === "punch" ? [message.inMs] : []));
  }
}

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

function meeting(a: number | null, b: number | null) {
  const channels = new Map([
    [A, new FakeChannel(a)],
    [B, new FakeChannel(b)],
    [C, new FakeChannel(10)],
  ]);
  const rendezvous = new Rendezvous({ channelOf: (machine) => channels.get(machine) ?? null, wasSeen: () => false });
  const { session } = new Sessions(new RelayPorts()).join(A, B);
  const channelOf = (machine: typeof A) => channels.get(machine) ?? new FakeChannel(null);
  return { rendezvous, session, channels, a: channelOf(A), b: channelOf(B) };
}

test("Rendezvous starts both ends at one instant, 1.5 longer round trips from now", () => {
  const { rendezvous, session, a, b } = meeting(40, 100);
  rendezvous.offer(session, A, { round: 1, candidates: [HOST] });
  rendezvous.offer(session, B, { round: 1, candidates: [HOST] });
  // 150 ms from now, of which 20 and 50 pass on the way.
  expect([a.punches, b.punches]).toEqual([[130], [100]]);
});

test("Rendezvous guesses a round trip that was not measured, and never tells anybody to wait for long", () => {
  const unknown = meeting(null, 40);
  for (const end of [A, B]) unknown.rendezvous.offer(unknown.session, end, { round: 1, candidates: [] });
  expect([unknown.a.punches, unknown.b.punches]).toEqual([[200], [280]]);
  const slow = meeting(60_000, 40);
  for (const end of [A, B]) slow.rendezvous.offer(slow.session, end, { round: 1, candidates: [] });
  expect([slow.a.punches, slow.b.punches]).toEqual([[10_000], [10_000]]);
});

test("Rendezvous makes one punch of many rounds and requests that come at once", () => {
  const { rendezvous, session, a } = meeting(10, 10);
  for (const end of [A, B]) rendezvous.offer(session, end, { round: 1, candidates: [HOST] });
  for (let round = 2; round < 10; round++) rendezvous.offer(session, A, { round, candidates: [HOST] });
  rendezvous.punchRequest(session, B);
  expect(a.punches).toHaveLength(1);
  jest.advanceTimersByTime(1000);
  expect(a.punches).toHaveLength(2);
});

test("Rendezvous listens to nobody but the ends, to no lower round, and to nothing after the session", () => {
  const { rendezvous, session, a, b } = meeting(10, 10);
  rendezvous.offer(session, C, { round: 1, candidates: [HOST] });
  expect(a.sent).toEqual([]);
  rendezvous.offer(session, A, { round: 5, candidates: [HOST] });
  rendezvous.offer(session, A, { round: 4, candidates: [] });
  expect(b.sent).toMatchObject([{ type: "candidates", round: 5, candidates: [HOST] }]);
  rendezvous.offer(session, B, { round: 1, candidates: [] });
  rendezvous.offer(session, B, { round: 2, candidates: [] });
  rendezvous.end(session.id);
  const before = a.sent.length;
  jest.advanceTimersByTime(1000);
  expect(a.sent).toHaveLength(before);
  expect(rendezvous.size).toBe(0);
});

test("Rendezvous keeps an offer for an end that is away, and punches nobody alone", () => {
  const { rendezvous, session, a, channels } = meeting(10, 10);
  channels.delete(B);
  rendezvous.offer(session, A, { round: 1, candidates: [HOST] });
  rendezvous.punchRequest(session, A);
  expect(a.sent).toEqual([]);
  const back = new FakeChannel(10);
  channels.set(B, back);
  rendezvous.offer(session, B, { round: 1, candidates: [] });
  expect(back.sent.map((message) => message.type)).toEqual(["candidates", "punch"]);
  expect(a.sent.map((message) => message.type)).toEqual(["candidates", "punch"]);
});

test("passable() marks what the server has seen itself, and only that", () => {
  const reflexive: Candidate = { kind: "reflexive", endpoint: "198.51.100.7:1" };
  const claimed: Candidate = { kind: "host", endpoint: "198.51.100.7:2", seen: true };
  expect(passable([reflexive, claimed], () => true)).toEqual([
    { ...reflexive, seen: true },
    { kind: "host", endpoint: "198.51.100.7:2" },
  ]);
  expect(passable([reflexive], () => false)).toEqual([reflexive]);
});

test("passable() lets a port be foreseen only where the machine was just seen, and knows a fresh one", () => {
  const reflexive: Candidate = { kind: "reflexive", endpoint: "198.51.100.7:1" };
  const fresh: Candidate = { kind: "fresh", endpoint: "198.51.100.7:2" };
  const foreseen: Candidate = { kind: "predicted", endpoint: "198.51.100.7:3" };
  const elsewhere: Candidate = { kind: "predicted", endpoint: "192.0.2.1:3" };
  const told = [elsewhere, foreseen, reflexive, fresh];
  expect(passable(told, () => true)).toEqual([foreseen, { ...reflexive, seen: true }, { ...fresh, seen: true }]);
  expect(passable(told, () => false)).toEqual([reflexive, fresh]);
});

test("Rendezvous tells what a machine says of its router, and which of its offers a punch is about", () => {
  const { rendezvous, session, a, b } = meeting(10, 10);
  const nat = { mapping: "random", guesses: true, open: 256 } as const;
  rendezvous.offer(session, A, { round: 4, candidates: [HOST], nat });
  rendezvous.offer(session, B, { round: 9, candidates: [HOST] });
  expect(b.sent[0]).toMatchObject({ type: "candidates", nat });
  expect(a.sent[0]).not.toHaveProperty("nat");
  expect([a.sent, b.sent].map((sent) => sent.find(({ type }) => type === "punch"))).toMatchObject([
    { round: 4 },
    { round: 9 },
  ]);
});

test("passable() passes at most 16 on", () => {
  const many = Array.from({ length: 40 }, (_, i): Candidate => ({ kind: "host", endpoint: `10.0.0.${i}:1` }));
  expect(passable(many, () => false)).toHaveLength(16);
});

test("Sightings holds for a minute, for the very endpoint, and for a bounded number of them", () => {
  const sightings = new Sightings();
  const place = (port: number) => ({ address: "198.51.100.7" as never, port });
  for (let port = 1; port <= 25; port++) sightings.note(A, place(port), 1000);
  expect(sightings.wasSeen(A, "198.51.100.7:25", 61_000)).toBe(true);
  expect(sightings.wasSeen(A, "198.51.100.7:25", 61_001)).toBe(false);
  expect(sightings.wasSeen(A, "198.51.100.7:1", 1000)).toBe(false);
  expect(sightings.wasSeen(B, "198.51.100.7:9", 1000)).toBe(false);
  sightings.forget(A);
  expect(sightings.wasSeen(A, "198.51.100.7:9", 1000)).toBe(false);
});

test("Sightings gives each machine a key of its own, the same for this start, and another at the next", () => {
  const sightings = new Sightings();
  expect(sightings.keyOf(A)).toEqual(sightings.keyOf(A));
  expect(sightings.keyOf(A)).toHaveLength(32);
  expect(sightings.keyOf(A)).not.toEqual(sightings.keyOf(B));
  expect(new Sightings().keyOf(A)).not.toEqual(sightings.keyOf(A));
});

test("RoundTrip is the quickest of the last few answers to its own pings", () => {
  const roundTrip = new RoundTrip();
  expect([roundTrip.ms, roundTrip.isDue(0)]).toEqual([null, true]);
  const stale = roundTrip.ask(0);
  const ping = roundTrip.ask(10);
  expect(roundTrip.answered(stale, 20)).toBe(false);
  expect(roundTrip.answered(new Uint8Array(0), 20)).toBe(false);
  expect(roundTrip.answered(ping, 60)).toBe(true);
  expect(roundTrip.answered(ping, 61)).toBe(false);
  for (const ms of [30, 90, 80, 70]) roundTrip.answered(roundTrip.ask(100), 100 + ms);
  expect(roundTrip.ms).toBe(30);
  roundTrip.answered(roundTrip.ask(100), 170);
  expect(roundTrip.ms).toBe(70);
  expect([roundTrip.isDue(10_099), roundTrip.isDue(10_100)]).toEqual([false, true]);
});
