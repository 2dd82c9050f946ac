import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Endpoint, IpAddress } from "../../../src/base/ip.ts";
import {
  type CheckKeys,
  checkAnswer,
  checkRequest,
  FULL_BYTES,
  isFromPeer,
  readIncoming,
  sessionName,
  SMALLER_BYTES,
} from "../../../src/peer/path-check.ts";
import { bindingRequest, encodeStun } from "../../../src/proto/stun.ts";

const KEY_A = new Uint8Array(32).fill(1);
const KEY_B = new Uint8Array(32).fill(2);
const A: CheckKeys = { session: 0xabcd, send: KEY_A, receive: KEY_B };
const B: CheckKeys = { session: 0xabcd, send: KEY_B, receive: KEY_A };
const transactionId = new Uint8Array(12).fill(7);
const mapped: Endpoint = { address: "198.51.100.1" as IpAddress, port: 40_000 };
const small = { transactionId, nominate: false, sizeBytes: null };

test("sessionName() is 8 hex digits", () => {
  expect([sessionName(1), sessionName(0xffff_ffff)]).toEqual(["00000001", "ffffffff"]);
});

describe("checkRequest()", () => {
  test("is read as what it is, by the peer only", () => {
    const bytes = checkRequest(A, small);
    expect(readIncoming(bytes)).toEqual({ kind: "request", user: "0000abcd", transactionId, nominated: false });
    expect(isFromPeer(bytes, B)).toBe(true);
    expect(isFromPeer(bytes, A)).toBe(false);
    expect(isFromPeer(bytes, { ...B, receive: new Uint8Array(32) })).toBe(false);
  });

  test("says that a path was chosen", () => {
    expect(readIncoming(checkRequest(A, { ...small, nominate: true }))).toMatchObject({ nominated: true });
  });

  test("has exactly the size that is asked for, nominated or not", () => {
    for (const sizeBytes of [FULL_BYTES, ...SMALLER_BYTES]) {
      for (const nominate of [true, false]) {
        const bytes = checkRequest(A, { transactionId, nominate, sizeBytes });
        expect(bytes.length).toBe(sizeBytes);
        expect(isFromPeer(bytes, B)).toBe(true);
      }
    }
  });

  test("is not believed after any change of a byte", () => {
    const bytes = checkRequest(A, { ...small, nominate: true });
    for (let at = 0; at < bytes.length; at++) {
      const changed = bytes.with(at, (bytes[at] ?? 0) ^ 1);
      expect(readIncoming(changed) !== null && isFromPeer(changed, B)).toBe(false);
    }
  });
});

describe("checkAnswer()", () => {
  test("is read as what it is, by the peer only", () => {
    const bytes = checkAnswer(B, { transactionId, mapped, sizeBytes: 0 });
    expect(readIncoming(bytes)).toEqual({ kind: "answer", transactionId, mapped });
    expect([isFromPeer(bytes, A), isFromPeer(bytes, B)]).toEqual([true, false]);
  });

  test("bug: is as large as its request, so that the way back is measured too", () => {
    const request = checkRequest(A, { transactionId, nominate: true, sizeBytes: FULL_BYTES });
    const bytes = checkAnswer(B, { transactionId, mapped, sizeBytes: request.length });
    expect(bytes.length).toBe(FULL_BYTES);
    expect(isFromPeer(bytes, A)).toBe(true);
  });

  test("is never much larger than its request", () => {
    const request = checkRequest(A, small);
    const six = { address: "2001:db8::1" as IpAddress, port: 1 };
    expect(checkAnswer(B, { transactionId, mapped: six, sizeBytes: request.length }).length).toBeLessThanOrEqual(
      request.length + 16,
    );
  });
});

describe("readIncoming()", () => {
  test("is null for a request without a name, and for other methods", () => {
    expect(readIncoming(encodeStun(bindingRequest(transactionId)))).toBeNull();
    expect(readIncoming(encodeStun({ ...bindingRequest(transactionId), method: 3 }))).toBeNull();
    expect(readIncoming(encodeStun({ ...bindingRequest(transactionId), class: "indication" }))).toBeNull();
    expect(readIncoming(encodeStun({ ...bindingRequest(transactionId), class: "success" }))).toBeNull();
  });

  test("is null for every truncation", () => {
    const bytes = checkRequest(A, small);
    for (let length = 0; length < bytes.length; length++) expect(readIncoming(bytes.subarray(0, length))).toBeNull();
  });

  test("never throws, and nobody vouches for random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        readIncoming(bytes);
        expect(isFromPeer(bytes, B)).toBe(false);
      }),
    );
  });
});
