// A handshake that WireGuard sends before there is a session is not lost: WireGuard would say it again after five seconds only.
import { expect, test } from "bun:test";
import { openBridge } from "../../../src/peer/bridge.ts";
import { framePackets, frameSession } from "../../../src/proto/relay-frame.ts";
import { isInitiation } from "../../../src/proto/wireguard-packet.ts";

function message(type: number, bytes: number, fill: number): Uint8Array {
  const packet = new Uint8Array(bytes).fill(fill);
  packet.set([type, 0, 0, 0]);
  return packet;
}

test("isInitiation() takes a whole handshake initiation and nothing else", () => {
  expect(isInitiation(message(1, 148, 7))).toBe(true);
  expect(isInitiation(message(1, 147, 7))).toBe(false);
  expect(isInitiation(message(2, 92, 7))).toBe(false);
  expect(isInitiation(message(4, 148, 7))).toBe(false);
  expect(isInitiation(new Uint8Array(0))).toBe(false);
});

test("openBridge() sends the last handshake of before the session once there is one, and drops other packets", async () => {
  const sent = Promise.withResolvers<Uint8Array>();
  const relay = {
    send: (frame: Uint8Array) => sent.resolve(frame.slice()),
    attach: () => undefined,
    detach: () => undefined,
  };
  const wireGuard = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  await using bridge = await openBridge({ wireGuardPort: wireGuard.port, relay });
  for (const packet of [message(1, 148, 7), message(1, 148, 8), message(4, 64, 9)]) {
    wireGuard.send(packet, bridge.endpoint.port, bridge.endpoint.address);
  }
  while (bridge.dropped === 0) await new Promise((resolve) => setImmediate(resolve)); // the last of them has arrived
  bridge.setSession(5);
  const frame = await sent.promise;
  expect(frameSession(frame)).toBe(5);
  expect(framePackets(frame)).toEqual([message(1, 148, 8)]);
  wireGuard.close();
});
