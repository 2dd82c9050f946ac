import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { toBase64Url } from "../../../src/base/bytes.ts";
import { type Endpoint, formatEndpoint } from "../../../src/base/ip.ts";
import { PathAgent } from "../../../src/peer/path-agent.ts";
import {
  type CheckKeys,
  checkAnswer,
  checkRequest,
  FULL_BYTES,
  isFromPeer,
  readIncoming,
} from "../../../src/peer/path-check.ts";
import type { PathKind, PathTarget } from "../../../src/peer/path-info.ts";
import { PathMover, RedirectBoard } from "../../../src/peer/path-mover.ts";
import type { MachineId } from "../../../src/proto/keys.ts";
import { endpointOf, FakeBridge, FakeDiscovery, FakeRedirect, SILENT } from "./fake-discovery.ts";

const key = (fill: number): Uint8Array => new Uint8Array(32).fill(fill);
const SESSION = 0xabcd;
/** As the peer, and as the relay, sees it. */
const PEER: CheckKeys = { session: SESSION, send: key(2), receive: key(1) };
const RELAY: CheckKeys = { session: SESSION, send: key(4), receive: key(3) };
const STRANGER: CheckKeys = { session: SESSION, send: key(8), receive: key(8) };
const DIRECT = endpointOf("198.51.100.1:51820");
const ELSEWHERE = endpointOf("192.0.2.66:6");
const RELAY_AT = endpointOf("203.0.113.10:40000");

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

function targetAt(endpoint: Endpoint): PathTarget {
  return { key: formatEndpoint(endpoint), kind: "direct", endpoint, lan: false };
}

function made(initiator = true, allowed: readonly PathKind[] = ["direct", "udp-relay", "wss"]) {
  const [discovery, redirect, bridge] = [new FakeDiscovery(), new FakeRedirect(), new FakeBridge()];
  const board = new RedirectBoard({ redirect, wireGuardPort: 51_820, sourceTo: () => null, log: SILENT });
  const mover = new PathMover({
    discovery,
    board,
    bridge,
    endpoint: () => Promise.resolve(null),
    setEndpoint: () => Promise.resolve(),
    sidePort: () => null,
    log: SILENT,
  });
  const moved: string[] = [];
  const agent = new PathAgent(
    {
      discovery,
      mover,
      sidePort: () => null,
      target: targetAt,
      allowed: new Set(allowed),
      idleMs: () => 20_000,
      peerName: "peer",
      onMoved: () => moved.push(agent.view.kind),
      log: SILENT,
    },
    { id: SESSION, peer: "peer" as MachineId, kind: "wireguard", initiator },
    {
      probe: {
        sendKey: toBase64Url(key(1)),
        receiveKey: toBase64Url(key(2)),
        relay: {
          endpoints: [formatEndpoint(RELAY_AT)],
          sendKey: toBase64Url(key(3)),
          receiveKey: toBase64Url(key(4)),
        },
      },
    },
  );
  let id = 0;
  const take = (bytes: Uint8Array, from: Endpoint): boolean => {
    const message = readIncoming(bytes);
    return message !== null && agent.take(bytes, message, from);
  };
  const request = (keys = PEER, nominate = false): Uint8Array => {
    const transactionId = new Uint8Array(12).fill(5);
    new DataView(transactionId.buffer).setUint32(0, ++id);
    return checkRequest(keys, { transactionId, nominate, sizeBytes: null });
  };
  /** Answers what was sent there since the last call, as the peer would. */
  const answerAll = (to: Endpoint, options: { keys?: CheckKeys; from?: Endpoint; shrink?: boolean } = {}): void => {
    for (const { to: place, bytes } of discovery.sent.splice(0)) {
      const message = readIncoming(bytes);
      if (place !== formatEndpoint(to) || message?.kind !== "request" || !isFromPeer(bytes, PEER)) continue;
      const { transactionId } = message;
      const sizeBytes = options.shrink === true ? 0 : bytes.length;
      take(checkAnswer(options.keys ?? PEER, { transactionId, mapped: DIRECT, sizeBytes }), options.from ?? to);
    }
  };
  const punch = (ms = 0): void => {
    agent.punch(0);
    jest.advanceTimersByTime(ms);
  };
  return { agent, discovery, take, request, answerAll, punch, moved };
}

describe("PathAgent", () => {
  test("moves to a path that answers, first small, then in full size", () => {
    const { agent, answerAll, punch, moved } = made();
    agent.targets([targetAt(DIRECT)]);
    punch();
    answerAll(DIRECT);
    expect(agent.view.kind).toBe("wss");
    answerAll(DIRECT);
    expect(agent.view).toMatchObject({ kind: "direct", sizeBytes: FULL_BYTES });
    expect(moved).toEqual(["direct"]);
  });

  test("bug: starts a burst in step with the peer, whatever the ticks do", () => {
    const { agent, discovery } = made();
    agent.targets([targetAt(DIRECT)]);
    agent.punch(37);
    jest.advanceTimersByTime(36);
    expect(discovery.sent).toHaveLength(0);
    jest.advanceTimersByTime(1);
    expect(discovery.sent).toHaveLength(1);
    jest.advanceTimersByTime(5_000);
    expect(discovery.sent).toHaveLength(7);
    agent.punch(37);
    agent.close();
    jest.advanceTimersByTime(5_000);
    expect(discovery.sent).toHaveLength(7);
  });

  test("asks the relay itself before it asks the peer through it, and that answer is no answer of the peer", () => {
    const { agent, discovery, take, punch } = made();
    agent.targets([{ ...targetAt(RELAY_AT), kind: "udp-relay" }]);
    punch();
    const [own, through] = discovery.sent.splice(0);
    expect(isFromPeer(own?.bytes ?? new Uint8Array(0), RELAY)).toBe(true);
    expect(isFromPeer(through?.bytes ?? new Uint8Array(0), PEER)).toBe(true);
    const message = readIncoming(own?.bytes ?? new Uint8Array(0));
    const { transactionId } = message ?? { transactionId: new Uint8Array(12) };
    expect(take(checkAnswer(RELAY, { transactionId, mapped: DIRECT, sizeBytes: 0 }), RELAY_AT)).toBe(true);
    expect(agent.view.tried[0]?.answeredAt).toBeNull();
  });

  test("answers the peer and the relay, with where they came from, and checks the peer's address in turn", () => {
    const { discovery, take, request } = made();
    expect(take(request(), DIRECT)).toBe(true);
    expect(take(request(RELAY), RELAY_AT)).toBe(true);
    const [answer, check, toRelay] = discovery.sent;
    expect(readIncoming(answer?.bytes ?? new Uint8Array(0))).toMatchObject({ kind: "answer", mapped: DIRECT });
    expect(readIncoming(check?.bytes ?? new Uint8Array(0))).toMatchObject({ kind: "request", nominated: false });
    expect(isFromPeer(toRelay?.bytes ?? new Uint8Array(0), RELAY)).toBe(true);
    expect(discovery.sent).toHaveLength(3);
  });

  test("does nothing for a stranger, a wrong session or an unsigned message", () => {
    const { agent, discovery, take, request } = made();
    expect(take(request(STRANGER), DIRECT)).toBe(false);
    expect(take(request({ ...PEER, session: 1 }), DIRECT)).toBe(false);
    expect(take(request().subarray(0, 32), DIRECT)).toBe(false);
    // A message of our own, reflected.
    expect(take(request({ ...PEER, send: key(1) }), DIRECT)).toBe(false);
    expect(discovery.sent).toHaveLength(0);
    expect(agent.view.tried).toEqual([]);
  });

  test("bug: a message that was recorded is not acted on again", () => {
    const { agent, discovery, take, request } = made(false);
    const recorded = request(PEER, true);
    take(recorded, DIRECT);
    const sent = discovery.sent.length;
    const tried = agent.view.tried;
    expect(take(recorded, DIRECT)).toBe(true);
    expect(take(recorded, ELSEWHERE)).toBe(true);
    expect(discovery.sent).toHaveLength(sent);
    expect(agent.view.tried).toEqual(tried);
  });

  test("bug: an answer counts only under the key that was asked", () => {
    const { agent, answerAll, punch } = made();
    agent.targets([targetAt(DIRECT)]);
    punch();
    answerAll(DIRECT, { keys: RELAY });
    expect(agent.view.tried[0]?.answeredAt).toBeNull();
  });

  test("an answer counts only from where it was asked, once, and within three seconds", () => {
    const { agent, discovery, take, answerAll, punch } = made();
    agent.targets([targetAt(DIRECT)]);
    punch();
    answerAll(DIRECT, { from: ELSEWHERE });
    expect(agent.view.tried[0]?.answeredAt).toBeNull();
    jest.advanceTimersByTime(100);
    const late = readIncoming(discovery.sent[0]?.bytes ?? new Uint8Array(0));
    jest.advanceTimersByTime(10_000);
    agent.tick({ sent: false, received: false });
    const { transactionId } = late ?? { transactionId: new Uint8Array(12) };
    expect(take(checkAnswer(PEER, { transactionId, mapped: DIRECT, sizeBytes: 0 }), DIRECT)).toBe(false);
    expect(agent.view.tried[0]?.answeredAt).toBeNull();
  });

  test("bug: a full check that is answered by a small message shows no size", () => {
    const { agent, answerAll, punch } = made();
    agent.targets([targetAt(DIRECT)]);
    punch();
    answerAll(DIRECT, { shrink: true });
    answerAll(DIRECT, { shrink: true });
    expect(agent.view.kind).toBe("wss");
    expect(agent.view.tried[0]).toMatchObject({ sizeBytes: 0 });
  });

  test("bug: kinds that a person does not allow are neither tried nor answered", () => {
    const { agent, discovery, take, request, punch } = made(true, ["udp-relay", "wss"]);
    agent.targets([targetAt(DIRECT)]);
    punch(5_000);
    expect(take(request(), DIRECT)).toBe(true);
    expect(discovery.sent).toHaveLength(0);
    const only = made(true, ["direct", "wss"]);
    expect(only.take(only.request(), RELAY_AT)).toBe(true);
    expect(only.agent.view.tried).toEqual([]);
  });

  test("the end that chooses follows no nomination", () => {
    const { agent, take, request } = made(true);
    take(request(PEER, true), DIRECT);
    expect(agent.view.tried[0]?.nominatedAt).toBeNull();
  });

  test("bug: many checks that nobody answers do not keep the next one from being sent", () => {
    const { agent, discovery, answerAll } = made();
    agent.targets(Array.from({ length: 32 }, (_, n) => targetAt(endpointOf(`198.51.100.${n + 1}:51820`))));
    for (let i = 0; i < 40; i++) {
      agent.punch(0);
      jest.advanceTimersByTime(0);
    }
    expect(discovery.sent.length).toBe(40 * 32);
    discovery.sent.splice(0);
    agent.punch(0);
    jest.advanceTimersByTime(0);
    answerAll(DIRECT);
    expect(agent.view.tried[0]?.answeredAt).not.toBeNull();
  });
});
