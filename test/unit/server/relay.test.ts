import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { CLOSE } from "../../../src/proto/control.ts";
import type { MachineId } from "../../../src/proto/keys.ts";
import { FrameBuilder, MOST_FRAME_BYTES } from "../../../src/proto/relay-frame.ts";
import { MOST_BUFFERED_BYTES, Relay } from "../../../src/server/relay/relay.ts";
import { ABANDONED_MS, type RelaySession, Sessions } from "../../../src/server/relay/sessions.ts";
import type { SocketEvents } from "../../../src/server/socket.ts";
import { FakeSocket, machineId } from "./values.ts";

const [A, B, C] = [machineId(1), machineId(2), machineId(3)];

function packet(type: number, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes[0] = type;
  return bytes;
}

function frame(session: number, packets: readonly Uint8Array[] = [packet(4, 64)]): Uint8Array<ArrayBuffer> {
  const builder = new FrameBuilder();
  for (const one of packets) builder.add(one);
  return new Uint8Array(builder.take(session));
}

let relay: Relay;
let sessions: Sessions;
let session: RelaySession;
let a: SocketEvents;
let b: SocketEvents;
let socketA: FakeSocket;
let socketB: FakeSocket;

beforeEach(() => {
  jest.useFakeTimers();
  relay = new Relay();
  sessions = new Sessions(relay.ports);
  session = sessions.join(A, B).session;
  [a, b] = [relay.accept(A), relay.accept(B)];
  [socketA, socketB] = [new FakeSocket(), new FakeSocket()];
  a.open(socketA);
  b.open(socketB);
});
afterEach(() => {
  jest.useRealTimers();
});

describe("Relay", () => {
  test("passes a frame on as it is, to the other end only, and counts it by direction", () => {
    const bytes = frame(session.id, [packet(1, 148), packet(4, 32), packet(4, 1452)]);
    a.message(bytes);
    expect(socketB.sent).toEqual([bytes]);
    expect(socketA.sent).toEqual([]);
    expect(session.legs.map(({ frames, packets, bytes: count }) => [frames, packets, count])).toEqual([
      [1, 3, bytes.length],
      [0, 0, 0],
    ]);
    expect(relay.counters).toMatchObject({ frames: 1, packets: 3, bytes: bytes.length });
    b.message(frame(session.id));
    expect(socketA.sent.length).toBe(1);
  });

  test("passes a frame of the largest size on", () => {
    const packets = Array.from({ length: 31 }, () => packet(4, 2048));
    const rest = MOST_FRAME_BYTES - 5 - 31 * 2050 - 2;
    const bytes = frame(session.id, [...packets, packet(4, rest)]);
    expect(bytes.length).toBe(MOST_FRAME_BYTES);
    a.message(bytes);
    expect(socketB.sent.length).toBe(1);
  });

  test("drops a frame of a session that was not granted to the connection", () => {
    const c = relay.accept(C);
    c.open(new FakeSocket());
    c.message(frame(session.id));
    a.message(frame(session.id === 1 ? 2 : session.id - 1));
    expect(relay.counters.dropped["no-session"]).toBe(2);
    expect(socketB.sent).toEqual([]);
  });

  test("drops a whole frame when one packet in it does not look like WireGuard", () => {
    const bad: [string, Uint8Array][] = [
      ["type 0", packet(0, 64)],
      ["type 5", packet(5, 64)],
      ["too short", packet(4, 31)],
      ["handshake of another length", packet(1, 147)],
      ["reserved bytes", packet(4, 64).with(2, 1)],
    ];
    for (const [what, one] of bad) {
      const builder = [packet(4, 64), one];
      a.message(frame(session.id, builder));
      expect([what, socketB.sent.length]).toEqual([what, 0]);
    }
    expect(relay.counters.dropped["not-wireguard"]).toBe(bad.length);
    expect(session.legs[0].dropped).toBe(bad.length);
  });

  test("drops what is no frame: text, nothing, half a header, another type, a length that lies", () => {
    const sound = frame(session.id);
    a.message("hello");
    for (const bytes of [new Uint8Array(0), sound.slice(0, 4), sound.slice(0, 5), sound.with(0, 2)]) a.message(bytes);
    expect(relay.counters.dropped.malformed).toBe(5);
    a.message(sound.slice(0, -1));
    a.message(sound.with(6, 65));
    expect(relay.counters.dropped["not-wireguard"]).toBe(2);
    expect(socketB.sent).toEqual([]);
  });

  test("drops for a reader that is too slow, rather than queue, and goes on when it has caught up", () => {
    socketB.buffered = MOST_BUFFERED_BYTES + 1;
    a.message(frame(session.id));
    expect(socketB.sent).toEqual([]);
    expect(relay.counters.dropped.slow).toBe(1);
    socketB.buffered = 0;
    socketB.answer = -1;
    a.message(frame(session.id));
    expect(socketB.sent.length).toBe(1);
    socketB.answer = 0;
    a.message(frame(session.id));
    expect(relay.counters.dropped.slow).toBe(2);
  });

  test("drops what a session sends while its relays are withheld, and goes on when they are given back", () => {
    session.legs[0].isWithheld = true;
    a.message(frame(session.id));
    expect(socketB.sent).toEqual([]);
    expect([relay.counters.dropped.quota, session.legs[0].dropped, session.legs[0].bytes]).toEqual([1, 1, 0]);
    session.legs[0].isWithheld = false;
    a.message(frame(session.id));
    expect(socketB.sent.length).toBe(1);
  });

  test("drops for an end that is not connected", () => {
    b.close();
    a.message(frame(session.id));
    expect(relay.counters.dropped.offline).toBe(1);
  });

  test("lets a newer connection replace the older, whose frames count no more and whose close changes nothing", () => {
    const newer = relay.accept(A);
    const newerSocket = new FakeSocket();
    newer.open(newerSocket);
    expect(socketA.closed?.code).toBe(CLOSE.replaced);
    a.message(frame(session.id));
    expect(relay.counters.dropped.replaced).toBe(1);
    a.close();
    b.message(frame(session.id));
    expect(newerSocket.sent.length).toBe(1);
    expect(relay.connections).toBe(2);
  });

  test("forwards nothing once a session has ended", () => {
    sessions.end(session);
    a.message(frame(session.id));
    b.message(frame(session.id));
    expect(relay.counters.dropped["no-session"]).toBe(2);
    expect(sessions.size).toBe(0);
  });

  test("cut() takes effect at once, also for a reader that never answers the close", () => {
    relay.cut(A, CLOSE.revoked, "revoked");
    a.message(frame(session.id));
    b.message(frame(session.id));
    expect(relay.counters.dropped).toMatchObject({ replaced: 1, offline: 1 });
    expect(socketA.isCut).toBe(false);
    jest.advanceTimersByTime(1000);
    expect(socketA.isCut).toBe(true);
  });

  test("keeps nothing of machines that are gone", () => {
    sessions.end(session);
    a.close();
    b.close();
    expect([...relay.ports.all()]).toEqual([]);
  });
});

describe("Sessions", () => {
  test("join() returns the pair's session, whoever asks, and another for another pair", () => {
    expect(sessions.join(B, A)).toEqual({ session, isNew: false });
    const other = sessions.join(A, C);
    expect(other.isNew).toBe(true);
    expect(other.session.id).not.toBe(session.id);
    expect(sessions.of(A).length).toBe(2);
  });

  test("abandoned() names a session once one end was away for three minutes, also while the other stays: nodes kept those of clients that left", () => {
    const onlyB = (machine: MachineId): boolean => machine === B;
    expect(ABANDONED_MS).toBe(3 * 60_000);
    expect(sessions.abandoned(onlyB, 0)).toEqual([]);
    expect(sessions.abandoned(onlyB, ABANDONED_MS - 1)).toEqual([]);
    expect(sessions.abandoned(onlyB, ABANDONED_MS)).toEqual([session]);
  });

  test("abandoned() counts each end by itself, and anew after it was back", () => {
    const only = (online: MachineId) => (machine: MachineId) => machine === online;
    expect(sessions.abandoned(only(B), 0)).toEqual([]);
    expect(sessions.abandoned(only(A), ABANDONED_MS - 1)).toEqual([]);
    expect(sessions.abandoned(only(A), ABANDONED_MS)).toEqual([]);
    expect(sessions.abandoned(() => true, ABANDONED_MS + 1)).toEqual([]);
    expect(sessions.abandoned(() => false, 2 * ABANDONED_MS)).toEqual([]);
    expect(sessions.abandoned(() => false, 3 * ABANDONED_MS)).toEqual([session]);
  });
});
