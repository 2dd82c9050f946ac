// The userspace bridge of one peer: WireGuard's datagrams on loopback on one side, relay frames on the other.
//
// WireGuard's endpoint for the peer is this socket. What arrives in one turn of the event loop leaves in one frame;
// what a frame brings leaves with one system call.
import { type Endpoint, parseIp } from "../base/ip.ts";
import { HiggsError } from "../base/errors.ts";
import type { Service } from "../base/service.ts";
import { enlargeReceiveBuffer } from "../net/udp-options.ts";
import { batchSender } from "../net/udp-batch.ts";
import { FrameBuilder } from "../proto/relay-frame.ts";
import { isInitiation, looksLikeWireGuard } from "../proto/wireguard-packet.ts";
import type { RelayLink } from "./relay-link.ts";

export class BridgeError extends HiggsError {
  override readonly name = "BridgeError";
}

export interface Bridge extends Service {
  readonly endpoint: Endpoint;
  /**
   * Null while the server has granted no session: packets are dropped then, but the last handshake waits for the session.
   * `yields`: this end was asked into the session, and lets the other's handshake come first.
   */
  setSession(session: number | null, options?: { readonly yields: boolean }): void;
  /**
   * What WireGuard still sends to the bridge leaves by another path: that is how a tunnel that carries traffic moves. Null for the
   * relay. What the relay brings is delivered all the same.
   */
  divert(send: ((packets: readonly Uint8Array[]) => number) | null): void;
  /** What came from the peer by another socket of ours is handed to WireGuard as if the relay had brought it. */
  inject(packets: readonly Uint8Array[]): void;
  readonly dropped: number;
}

const LOOPBACK = "127.0.0.1";
/**
 * Two handshakes that cross undo each other: each end answers the other's and forgets its own, and both try again only after
 * five seconds. One end waits this long for the other's, and drops its own when that has come.
 */
const YIELD_MS = 300;
/** What WireGuard hands over in bursts while this process is busy: some 1 800 full packets, twenty milliseconds at a gigabit. */
const RECEIVE_BUFFER_BYTES = 4 << 20;

/** `wireGuardPort`: where the local WireGuard listens; the socket is connected to it, so nobody else can speak to it. */
export async function openBridge(deps: {
  readonly wireGuardPort: number;
  readonly relay: Pick<RelayLink, "send" | "attach" | "detach">;
  /** Packets of the peer came in by the relay. */
  readonly onRelayed?: () => void;
}): Promise<Bridge> {
  const frame = new FrameBuilder();
  let session: number | null = null;
  let flushing = false;
  let dropped = 0;
  let held: Uint8Array | null = null;
  let yields = false;
  let yielding: { readonly timer: ReturnType<typeof setTimeout>; packet: Uint8Array } | null = null;
  let waiting: Uint8Array[] = [];
  let diverted: ((packets: readonly Uint8Array[]) => number) | null = null;

  function flush(): void {
    flushing = false;
    if (frame.packets === 0) return;
    const packets = frame.packets;
    const bytes = frame.take(session ?? 0);
    if (session === null) dropped += packets;
    else deps.relay.send(bytes);
  }

  function take(packet: Uint8Array): void {
    if (!frame.add(packet)) {
      flush();
      frame.add(packet);
    }
    if (flushing) return;
    flushing = true;
    setImmediate(flush);
  }

  /** As with frames: what comes in one turn leaves together. */
  function detour(packet: Uint8Array): void {
    waiting.push(packet);
    if (waiting.length > 1) return;
    setImmediate(() => {
      const packets = waiting;
      waiting = [];
      if (diverted !== null) dropped += packets.length - diverted(packets);
      else for (const one of packets) take(one);
    });
  }

  /** The handshake goes out later, unless the peer's has come by then. */
  function yieldFirst(packet: Uint8Array): void {
    if (yielding !== null) {
      yielding.packet = packet;
      return;
    }
    const timer = setTimeout(() => {
      const last = yielding?.packet;
      yielding = null;
      if (last === undefined) return;
      if (session === null) held = last;
      else take(last);
    }, YIELD_MS);
    yielding = { timer, packet };
  }

  function stopYielding(): void {
    if (yielding !== null) clearTimeout(yielding.timer);
    yielding = null;
  }

  const socket = await Bun.udpSocket({
    hostname: LOOPBACK,
    port: 0,
    connect: { hostname: LOOPBACK, port: deps.wireGuardPort },
    binaryType: "uint8array",
    socket: {
      data(_socket, packet) {
        if (!looksLikeWireGuard(packet, 0, packet.length)) {
          dropped++;
          return;
        }
        if (diverted !== null) detour(packet);
        else if (session === null && isInitiation(packet)) held = packet.slice();
        else if (yields && isInitiation(packet)) yieldFirst(packet.slice());
        else take(packet);
      },
      error() {
        dropped++; // ICMP from a WireGuard that is not up yet; without a handler it would end the process
      },
    },
  }).catch((cause: unknown) => {
    throw new BridgeError("Cannot open a loopback socket for a relayed peer.", { code: "bridge-failed", cause });
  });

  await enlargeReceiveBuffer(socket, RECEIVE_BUFFER_BYTES); // without it there is more loss, and nothing worse
  const sendBatch = await batchSender(socket);

  function inject(packets: readonly Uint8Array[]): void {
    if (yielding !== null && packets.some(isInitiation)) stopYielding();
    const sent = sendBatch(packets);
    if (sent < packets.length) dropped += packets.length - sent;
  }

  function deliver(packets: readonly Uint8Array[]): void {
    inject(packets);
    deps.onRelayed?.();
  }

  const address = parseIp(LOOPBACK);
  if (address === null) throw new BridgeError("Cannot name the loopback address.", { code: "bridge-failed" });
  return {
    endpoint: { address, port: socket.port },
    get dropped() {
      return dropped;
    },
    setSession(next, options) {
      yields = options?.yields === true;
      if (next === session) return;
      if (session !== null) deps.relay.detach(session);
      session = next;
      if (next === null) return;
      deps.relay.attach(next, deliver);
      const first = held;
      held = null;
      if (first === null) return;
      if (yields) yieldFirst(first);
      else take(first);
    },
    divert(send) {
      diverted = send;
    },
    inject,
    [Symbol.asyncDispose]() {
      if (session !== null) deps.relay.detach(session);
      session = null;
      stopYielding();
      socket.close();
      return Promise.resolve();
    },
  };
}
