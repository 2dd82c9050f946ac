import { expect, test } from "bun:test";
import type { MachineName } from "../../../src/base/hostname.ts";
import { silentLogger } from "../../../src/base/log.ts";
import { Netmap } from "../../../src/peer/netmap.ts";
import { TrustStore } from "../../../src/peer/trust-store.ts";
import type { Peer, Position, Welcome } from "../../../src/proto/control.ts";
import { NETWORK_KEY } from "../support/keys.ts";
import { ALL4, context, machineId, peerOf, RANGE4, RANGE6, SELF_ADDRESSES, SELF_NAME, somebody } from "./machines.ts";
import { temporaryState } from "./state.ts";
import { failureOf } from "../support/failure.ts";

const home = somebody("home", 2);
const cabin = somebody("cabin", 3);
const evil = somebody("evil", 4);

function welcomeWith(peers: Peer[], at: Position = { epoch: 5, seq: 1 }): Welcome {
  return {
    type: "welcome",
    at,
    version: "0.0.0-test",
    self: {
      id: machineId(1),
      name: SELF_NAME,
      role: "client",
      tags: [],
      ipv4: SELF_ADDRESSES[0],
      ipv6: SELF_ADDRESSES[1],
    },
    network: NETWORK_KEY,
    range4: RANGE4,
    range6: RANGE6,
    recordSerial: "0",
    observedAddress: null,
    servers: [],
    relays: ["/api/v1/relay"],
    stun: [],
    peers,
    sessions: [],
  };
}

async function mapWith(peers: Peer[], at?: Position) {
  const state = await temporaryState();
  const trust = await TrustStore.open(state.dir);
  const map = new Netmap({ trust, log: silentLogger }, { epoch: 0, seq: 0 });
  await map.welcome(welcomeWith(peers, at), context);
  return { map, trust, [Symbol.asyncDispose]: () => state[Symbol.asyncDispose]() };
}

const names = (map: Netmap): string[] =>
  map
    .peers()
    .map((peer) => peer.name)
    .sort();
const codes = (map: Netmap): string[] => map.refusals().map((refusal) => refusal.code);

test("Netmap shows the machines of the welcome, by id and by name", async () => {
  await using made = await mapWith([peerOf(home), peerOf(cabin)]);
  expect(names(made.map)).toEqual(["cabin", "home"]);
  expect(made.map.get(home.id)?.machine.wireGuard).toBe(home.wireGuard);
  expect(made.map.named("cabin")?.id).toBe(cabin.id);
  expect(made.map.position).toEqual({ epoch: 5, seq: 1 });
});

test("Netmap takes away who is not in the next welcome", async () => {
  await using made = await mapWith([peerOf(home), peerOf(cabin)]);
  await made.map.welcome(welcomeWith([peerOf(cabin)], { epoch: 6, seq: 1 }), context);
  expect(names(made.map)).toEqual(["cabin"]);
});

test("Netmap takes what a delta brings and takes away", async () => {
  await using made = await mapWith([peerOf(home)]);
  const delta = { type: "delta", at: { epoch: 5, seq: 2 }, upsert: [peerOf(cabin)], remove: [home.id] } as const;
  await made.map.delta({ ...delta, upsert: [...delta.upsert], remove: [...delta.remove] }, context);
  expect(names(made.map)).toEqual(["cabin"]);
  expect(made.map.position).toEqual({ epoch: 5, seq: 2 });
});

test("Netmap drops a delta that is repeated, older, or of another epoch", async () => {
  await using made = await mapWith([peerOf(home)], { epoch: 5, seq: 7 });
  for (const at of [
    { epoch: 5, seq: 7 },
    { epoch: 5, seq: 6 },
    { epoch: 4, seq: 9 },
    { epoch: 6, seq: 8 },
  ]) {
    await made.map.delta({ type: "delta", at, upsert: [], remove: [home.id] }, context);
    expect(names(made.map)).toEqual(["home"]);
  }
  expect(made.map.position).toEqual({ epoch: 5, seq: 7 });
});

test("Netmap refuses a map of an earlier epoch and keeps the last good one", async () => {
  await using made = await mapWith([peerOf(home)]);
  const rolledBack = made.map.welcome(welcomeWith([peerOf(cabin)], { epoch: 4, seq: 900 }), context);
  expect(await failureOf(rolledBack)).toMatchObject({ name: "MapRefused", code: "map-rollback" });
  expect(names(made.map)).toEqual(["home"]);
  expect(codes(made.map)).toEqual(["map-rollback"]);
  await made.map.welcome(welcomeWith([peerOf(home)], { epoch: 6, seq: 1 }), context);
  expect(codes(made.map)).toEqual([]);
});

test("Netmap refuses an earlier map of the same epoch, which a revoked machine may still be in", async () => {
  await using made = await mapWith([peerOf(home), peerOf(evil)], { epoch: 5, seq: 3 });
  await made.map.delta({ type: "delta", at: { epoch: 5, seq: 4 }, upsert: [], remove: [evil.id] }, context);
  const replayed = made.map.welcome(welcomeWith([peerOf(home), peerOf(evil)], { epoch: 5, seq: 3 }), context);
  expect(await failureOf(replayed)).toMatchObject({ code: "map-rollback" });
  expect(names(made.map)).toEqual(["home"]);
});

test("Netmap keeps a machine's last good record when the server says another thing of it", async () => {
  await using made = await mapWith([peerOf(home)]);
  const swapped = peerOf(evil, { name: home.name }, { id: home.id });
  await made.map.delta({ type: "delta", at: { epoch: 5, seq: 2 }, upsert: [swapped], remove: [] }, context);
  expect(made.map.get(home.id)?.machine.wireGuard).toBe(home.wireGuard);
  expect(codes(made.map)).toEqual(["identity-changed"]);
  expect(made.map.refusals()[0]?.remedy).toContain("higgs trust forget home");
  await made.map.delta({ type: "delta", at: { epoch: 5, seq: 3 }, upsert: [peerOf(home)], remove: [] }, context);
  expect(codes(made.map)).toEqual([]);
});

test("Netmap does not show a stranger that was refused", async () => {
  await using made = await mapWith([peerOf(home), peerOf(evil, { addresses: home.addresses })]);
  expect(names(made.map)).toEqual(["home"]);
  expect(codes(made.map)).toEqual(["address-taken"]);
});

test("Netmap loses one machine to a record that cannot be read, never the map", async () => {
  const garbage = { ...peerOf(cabin), record: { bytes: "AAAA", signatures: [{ key: "x", signature: "y" }] } };
  const unsigned = { ...peerOf(evil), record: { ...peerOf(evil).record, signatures: peerOf(cabin).record.signatures } };
  await using made = await mapWith([garbage, unsigned, peerOf(home)]);
  expect(names(made.map)).toEqual(["home"]);
  expect(codes(made.map).sort()).toEqual(["record-malformed", "record-signature"]);
});

test("Netmap believes a renewed record, and not the older one after it", async () => {
  await using made = await mapWith([peerOf(home, { serial: 4n })]);
  const step = (seq: number, peer: Peer) =>
    made.map.delta({ type: "delta", at: { epoch: 5, seq }, upsert: [peer], remove: [] }, context);
  await step(2, peerOf(home, { serial: 5n, routes: [ALL4] }));
  expect(made.map.get(home.id)?.machine.routes).toEqual([ALL4]);
  await step(3, peerOf(home, { serial: 4n }));
  expect(made.map.get(home.id)?.machine.routes).toEqual([ALL4]);
  expect(codes(made.map)).toEqual(["serial-lowered"]);
});

test("again() believes a new identity once the old one was forgotten", async () => {
  await using made = await mapWith([peerOf(home)]);
  const swapped = peerOf(evil, { name: home.name }, { id: home.id });
  await made.map.delta({ type: "delta", at: { epoch: 5, seq: 2 }, upsert: [swapped], remove: [] }, context);
  await made.trust.forget("home" as MachineName);
  await made.map.again(context);
  expect(made.map.get(home.id)?.machine.wireGuard).toBe(evil.wireGuard);
  expect(codes(made.map)).toEqual([]);
});
