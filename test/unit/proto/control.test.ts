import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { z } from "zod";
import { CLOSE, machineMessageSchema, peerSchema, serverMessageSchema } from "../../../src/proto/control.ts";
import { type Json, optionalFields, withValue, wrongKindsAccepted } from "../support/json.ts";
import { MACHINE_KEY, NETWORK_KEY } from "../support/keys.ts";
import { check } from "../support/property.ts";

const MACHINE = "01234567-89ab-cdef-0123-456789abcdef";
const RECORD: Json = { bytes: "AQID", signatures: [{ key: MACHINE_KEY, signature: "B".repeat(86) }] };
const EXIT: Json = { ready: false, ipv6: true, missing: ["Forwarding is off."] };
const PEER: Json = {
  id: MACHINE,
  tags: ["attic"],
  online: true,
  exit: EXIT,
  publicAddress: "203.0.113.7",
  record: RECORD,
};
const SESSION: Json = { id: 0xffff_ffff, peer: MACHINE, kind: "wireguard", initiator: true };
const CANDIDATE: Json = { kind: "host", endpoint: "192.168.1.10:51820" };
const AT: Json = { epoch: 3, seq: 0 };

const FROM_SERVER: Record<string, Json> = {
  welcome: {
    type: "welcome",
    at: AT,
    version: "0.1.0",
    self: { id: MACHINE, name: "laptop", role: "client", tags: [], ipv4: "10.64.0.3", ipv6: "fd00:1:2::3" },
    network: NETWORK_KEY,
    range4: "10.64.0.0/16",
    range6: "fd00:1:2::/48",
    recordSerial: "18446744073709551615",
    observedAddress: "203.0.113.66",
    servers: ["vpn.example:443"],
    relays: ["/relay"],
    stun: ["vpn.example:3478"],
    peers: [PEER],
    sessions: [SESSION],
  },
  delta: { type: "delta", at: AT, upsert: [PEER], remove: [MACHINE] },
  session: { type: "session", session: SESSION },
  candidates: { type: "candidates", session: 7, round: 1, candidates: [CANDIDATE] },
  punch: { type: "punch", session: 7, round: 1, inMs: 12.5 },
  "session-end": { type: "session-end", id: 7, reason: "revoked" },
  connected: { type: "connected", ref: 5, session: SESSION },
  refused: { type: "refused", ref: 5, code: "no-such-machine", detail: "Cannot connect." },
};
const FROM_MACHINE: Record<string, Json> = {
  connect: { type: "connect", ref: 5, peer: MACHINE, kind: "wireguard" },
  disconnect: { type: "disconnect", id: 7 },
  candidates: { type: "candidates", session: 7, round: 1, candidates: [CANDIDATE] },
  "punch-request": { type: "punch-request", session: 7 },
  record: { type: "record", record: RECORD },
  presence: { type: "presence", exit: EXIT },
};

/** Where null says something: no exit offered, no address seen. */
const NULLABLE = [
  "observedAddress",
  "exit",
  "peers.0.exit",
  "peers.0.publicAddress",
  "upsert.0.exit",
  "upsert.0.publicAddress",
];
/** Texts for people, and what a signature covers: their form is judged elsewhere. */
const FREE = /(^|\.)(version|reason|code|detail|missing\.0|relays\.0|bytes|key|signature): "\\u0000"$/;

/** One bad entry of a map is left out, and does not spoil the map: tested by itself below. */
const IN_PEER = /^(peers|upsert)\.0/;

const directions: [string, z.ZodType, Record<string, Json>][] = [
  ["serverMessageSchema", serverMessageSchema, FROM_SERVER],
  ["machineMessageSchema", machineMessageSchema, FROM_MACHINE],
];

for (const [name, schema, messages] of directions) {
  describe(name, () => {
    for (const [type, message] of Object.entries(messages)) {
      test(`${name} accepts ${type} and gives it back`, () => {
        expect(schema.parse(JSON.parse(JSON.stringify(message)))).toEqual(message);
      });

      test(`${name} requires every field of ${type}`, () => {
        expect(optionalFields(schema, message).filter((place) => !IN_PEER.test(place))).toEqual([]);
      });

      test(`${name} refuses a value of another kind in every place of ${type}`, () => {
        const accepted = wrongKindsAccepted(schema, message, NULLABLE);
        expect(accepted.filter((place) => !FREE.test(place) && !IN_PEER.test(place))).toEqual([]);
      });

      test(`${name} leaves out fields of ${type} that it does not know`, () => {
        expect(schema.parse(withValue(message, ["later"], { kind: "unknown" }))).toEqual(message);
      });
    }

    test(`${name} refuses a type that it does not know, and messages of the other direction`, () => {
      const foreign = messages === FROM_SERVER ? FROM_MACHINE : FROM_SERVER;
      // Candidates travel both ways as they are.
      const oneWay = Object.entries(foreign).filter(([type]) => type !== "candidates");
      for (const [, message] of oneWay) expect(schema.safeParse(message).success).toBe(false);
      for (const type of ["", "later", "__proto__", "constructor", "toString"]) {
        expect(schema.safeParse({ type }).success).toBe(false);
      }
    });

    test(`${name} refuses random JSON, and never throws`, () => {
      const typed = fc.tuple(fc.constantFrom(...Object.keys(messages)), fc.dictionary(fc.string(), fc.jsonValue()));
      const message = fc.oneof(
        fc.jsonValue(),
        typed.map(([type, fields]) => ({ ...fields, type })),
      );
      check(fc.property(message, (value) => expect(schema.safeParse(value).success).toBe(false)));
    });
  });
}

describe("peerSchema", () => {
  test("peerSchema requires every field, and refuses a value of another kind in every place", () => {
    expect(optionalFields(peerSchema, PEER)).toEqual([]);
    const accepted = wrongKindsAccepted(peerSchema, PEER, ["exit", "publicAddress"]);
    expect(accepted.filter((place) => !FREE.test(place))).toEqual([]);
  });

  test("a peer that is not understood is left out of a map, and the others stay", () => {
    for (const bad of [
      null,
      7,
      "peer",
      {},
      withValue(PEER, ["record"], 1),
      withValue(PEER, ["exit", "ready"], "yes"),
    ]) {
      const welcome = serverMessageSchema.parse({ ...(FROM_SERVER.welcome as object), peers: [bad, PEER] });
      expect(welcome).toEqual(FROM_SERVER.welcome as never);
      const delta = serverMessageSchema.parse({ ...(FROM_SERVER.delta as object), upsert: [PEER, bad] });
      expect(delta).toEqual(FROM_SERVER.delta as never);
    }
  });
});

describe("bounds", () => {
  const accepts = (
    schema: z.ZodType,
    message: Json | undefined,
    path: readonly (string | number)[],
    value: Json,
  ): boolean => schema.safeParse(withValue(message ?? null, path, value)).success;

  test("CLOSE has the codes that both ends and the operators' tools know", () => {
    expect(CLOSE).toEqual({ malformed: 4400, revoked: 4401, replaced: 4409, tooSlow: 4429, changed: 4440 });
  });

  test("serverMessageSchema takes a serial of one to twenty digits", () => {
    const accepted = ["0", "7", "9".repeat(20), "", "9".repeat(21), "-1", "1e3"].map((serial) =>
      accepts(serverMessageSchema, FROM_SERVER["welcome"], ["recordSerial"], serial),
    );
    expect(accepted).toEqual([true, true, true, false, false, false, false]);
  });

  test("sessionSchema allows ids of four bytes and no zero, which no frame may name", () => {
    for (const [id, expected] of [
      [1, true],
      [0xffff_ffff, true],
      [0, false],
      [-1, false],
      [0x1_0000_0000, false],
      [1.5, false],
    ] as const) {
      expect({ id, accepted: accepts(serverMessageSchema, FROM_SERVER["session"], ["session", "id"], id) }).toEqual({
        id,
        accepted: expected,
      });
      expect({ id, accepted: accepts(machineMessageSchema, FROM_MACHINE["disconnect"], ["id"], id) }).toEqual({
        id,
        accepted: expected,
      });
    }
  });

  test("machineMessageSchema bounds every text and every list that a machine may send", () => {
    const record = FROM_MACHINE["record"];
    const presence = FROM_MACHINE["presence"];
    const entry: Json = { key: MACHINE_KEY, signature: "B" };
    expect(accepts(machineMessageSchema, record, ["record", "bytes"], "A".repeat(8193))).toBe(false);
    expect(accepts(machineMessageSchema, record, ["record", "signatures"], [])).toBe(false);
    expect(accepts(machineMessageSchema, record, ["record", "signatures"], Array<Json>(9).fill(entry))).toBe(false);
    expect(accepts(machineMessageSchema, presence, ["exit", "missing"], Array<Json>(9).fill("a"))).toBe(false);
    expect(accepts(machineMessageSchema, presence, ["exit", "missing", 0], "a".repeat(301))).toBe(false);
  });

  test("serverMessageSchema takes null for no exit and no address", () => {
    for (const path of [["peers", 0, "exit"], ["peers", 0, "publicAddress"], ["observedAddress"]]) {
      expect(accepts(serverMessageSchema, FROM_SERVER["welcome"], path, null)).toBe(true);
    }
  });

  test("serverMessageSchema refuses a position that is no counter", () => {
    for (const value of [-1, 0.5, 2 ** 60, "1"]) {
      expect(accepts(serverMessageSchema, FROM_SERVER["delta"], ["at", "seq"], value)).toBe(false);
      expect(accepts(serverMessageSchema, FROM_SERVER["delta"], ["at", "epoch"], value)).toBe(false);
    }
  });
});

describe("candidates", () => {
  const message = { type: "candidates", session: 7, round: 1, candidates: [CANDIDATE] };

  test("carry what an end says of its router, and what a later version says otherwise is as if it was not said", () => {
    const nat = { mapping: "random", guesses: true, open: 256 };
    for (const schema of [serverMessageSchema, machineMessageSchema]) {
      expect<unknown>(schema.parse({ ...message, nat })).toEqual({ ...message, nat });
      for (const other of [{ ...nat, mapping: "quantum" }, { ...nat, open: 257 }, null, "random"]) {
        expect<unknown>(schema.parse({ ...message, nat: other })).toEqual(message);
      }
    }
  });
});
