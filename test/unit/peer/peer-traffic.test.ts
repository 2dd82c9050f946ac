// Whose traffic it was: of one peer alone, and of several.
import { expect, test } from "bun:test";
import { PeerTraffic } from "../../../src/peer/peer-traffic.ts";
import type { WireGuardKey } from "../../../src/proto/keys.ts";

const [BUSY, SILENT] = ["busy" as WireGuardKey, "silent" as WireGuardKey];
const NOTHING = { sent: false, received: false };

function device() {
  const state = { rxPackets: 0, txPackets: 0, asked: 0, peers: new Map([BUSY, SILENT].map((key) => [key, [0, 0]])) };
  return {
    state,
    as: {
      counters: () =>
        Promise.resolve({ rxBytes: 0, txBytes: 0, rxPackets: state.rxPackets, txPackets: state.txPackets }),
      transfers: () => {
        state.asked++;
        return Promise.resolve(
          new Map([...state.peers].map(([key, [rxBytes = 0, txBytes = 0]]) => [key, { rxBytes, txBytes }])),
        );
      },
    },
  };
}

test("PeerTraffic of one peer is the device's, and asks nobody else", async () => {
  const { state, as } = device();
  const traffic = new PeerTraffic(as, new AbortController().signal);
  expect((await traffic.look([BUSY], 0))(BUSY)).toEqual(NOTHING);
  state.txPackets++;
  expect((await traffic.look([BUSY], 50))(BUSY)).toEqual({ sent: true, received: false });
  expect((await traffic.look([BUSY], 100))(BUSY)).toEqual(NOTHING);
  expect(state.asked).toBe(0);
});

test("PeerTraffic of a busy peer says nothing of one that is sent to in vain", async () => {
  const { state, as } = device();
  const traffic = new PeerTraffic(as, new AbortController().signal);
  await traffic.look([BUSY, SILENT], 0);
  state.rxPackets++;
  state.txPackets++;
  state.peers = new Map([
    [BUSY, [90, 90]],
    [SILENT, [0, 90]],
  ]);
  const look = await traffic.look([BUSY, SILENT], 200);
  expect(look(BUSY)).toEqual({ sent: true, received: true });
  expect(look(SILENT)).toEqual({ sent: true, received: false });
});

test("PeerTraffic asks about several peers only when something went through, not too often, and then misses nothing", async () => {
  const { state, as } = device();
  const traffic = new PeerTraffic(as, new AbortController().signal);
  await traffic.look([BUSY, SILENT], 0);
  expect(state.asked).toBe(1);
  for (let at = 50; at < 5_000; at += 50) await traffic.look([BUSY, SILENT], at);
  expect(state.asked).toBe(1);
  let sent = 0;
  for (let at = 5_000; at < 6_000; at += 50) {
    if (at < 5_500) {
      state.txPackets++;
      state.peers.set(SILENT, [0, at]);
    }
    if ((await traffic.look([BUSY, SILENT], at))(SILENT).sent) sent++;
  }
  expect(sent).toBe(state.asked - 1);
  expect(sent).toBeLessThanOrEqual(5);
  expect(state.peers.get(SILENT)?.[1]).toBe(5_450);
});
