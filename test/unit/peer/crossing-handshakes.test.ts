// Two handshakes that cross undo each other: the end that was asked into the session drops its own when the peer's has come.
import { expect, test } from "bun:test";
import { openBridge } from "../../../src/peer/bridge.ts";
import type { PacketSink } from "../../../src/peer/relay-link.ts";

const SESSION = 7;
const INITIATION_BYTES = 148;

function initiation(): Uint8Array {
  const packet = new Uint8Array(INITIATION_BYTES);
  packet[0] = 1;
  return packet;
}

/** A bridge between a socket in WireGuard's place and a relay that only counts. */
async function open(yields: boolean) {
  const sent: number[] = [];
  const sinks: PacketSink[] = [];
  const heard = Promise.withResolvers<void>();
  const left = Promise.withResolvers<void>();
  const wireGuard = await Bun.udpSocket({ hostname: "127.0.0.1", socket: { data: () => heard.resolve() } });
  const relay = {
    send(frame: Uint8Array) {
      sent.push(frame.length);
      left.resolve();
    },
    attach: (_session: number, sink: PacketSink) => void sinks.push(sink),
    detach: () => undefined,
  };
  const bridge = await openBridge({ wireGuardPort: wireGuard.port, relay });
  bridge.setSession(SESSION, { yields });
  return {
    sent,
    left: left.promise,
    heard: heard.promise,
    speak: () => void wireGuard.send(initiation(), bridge.endpoint.port, "127.0.0.1"),
    deliver: () => sinks[0]?.([initiation()]),
    async [Symbol.asyncDispose]() {
      await bridge[Symbol.asyncDispose]();
      wireGuard.close();
    },
  };
}

for (const yields of [true, false]) {
  test(`a handshake that nobody crosses leaves when the end ${yields ? "yields" : "does not yield"}`, async () => {
    await using ends = await open(yields);
    ends.speak();
    await ends.left;
    expect(ends.sent).toHaveLength(1);
  });
}

test("an end that yields drops its handshake when the peer's comes, and sends the next one", async () => {
  await using ends = await open(true);
  ends.speak();
  await Bun.sleep(50); // the bridge has it
  ends.deliver();
  await ends.heard;
  await Bun.sleep(400); // longer than it would have waited
  expect(ends.sent).toEqual([]);
  ends.speak();
  await ends.left;
  expect(ends.sent).toHaveLength(1);
});
