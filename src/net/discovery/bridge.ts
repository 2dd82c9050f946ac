// Discovery without nft: a socket of ours has the public port, takes STUN for itself, and hands WireGuard's packets to whoever named their place.
//
// internet <-> public port <-> STUN: onMessage
//                          <-> WireGuard's packets from a place that was named: its deliver, which has the way to WireGuard
import { parseIp } from "../../base/ip.ts";
import { looksLikeWireGuard } from "../../proto/wireguard-packet.ts";
import {
  type Deliver,
  type Discovery,
  DiscoveryFailed,
  type DiscoveryOptions,
  type DiscoveryPort,
} from "./discovery.ts";
import type { Identifiers } from "../identifiers.ts";
import { openPortSockets, openSidePort } from "./port-sockets.ts";

/** A burst of WireGuard's, and more; beyond it, packets of one turn of the event loop are dropped. */
const MOST_WAITING = 1024;
/** WireGuard sends hundreds of packets in one go. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;

/** WireGuard listens on a port of its own, which the world need not reach. */
export function bridgeDiscovery(deps: { readonly identifiers: Pick<Identifiers, "mark"> }): DiscoveryPort {
  return { mechanism: "bridge", open: (options, signal) => open(deps.identifiers.mark, options, signal) };
}

async function open(mark: number, options: DiscoveryOptions, signal: AbortSignal): Promise<Discovery> {
  signal.throwIfAborted();
  if (options.publicPort === options.wireGuardPort) {
    throw new DiscoveryFailed(`Cannot share UDP port ${options.wireGuardPort}: WireGuard itself listens on it.`, {
      code: "port-busy",
    });
  }
  let dropped = 0;
  const drop = (count: number): void => {
    dropped += count;
  };
  /** By the text of an endpoint: whose packets come from there. */
  const accepted = new Map<string, Deliver>();
  const waiting = new Map<Deliver, Uint8Array[]>();
  let waits = 0;
  let isOver = false;

  /** What arrives in one turn of the event loop is handed on together. */
  function flush(): void {
    const all = [...waiting];
    waiting.clear();
    waits = 0;
    if (!isOver) for (const [deliver, packets] of all) deliver(packets);
  }

  function take(deliver: Deliver, packet: Uint8Array): void {
    if (waits >= MOST_WAITING) {
      drop(1);
      return;
    }
    if (waits++ === 0) setImmediate(flush);
    const packets = waiting.get(deliver);
    if (packets === undefined) waiting.set(deliver, [packet]);
    else packets.push(packet);
  }

  const sockets = await openPortSockets({
    port: options.publicPort ?? 0,
    onDatagram(bytes, from, port) {
      if (looksLikeWireGuard(bytes, 0, bytes.length)) {
        const deliver = accepted.get(keyOf(from, port));
        if (deliver === undefined) drop(1);
        else take(deliver, bytes);
        return;
      }
      const address = parseIp(from);
      if (address === null || !looksLikeStun(bytes)) drop(1);
      else options.onMessage(bytes, { address, port });
    },
    onError: () => drop(1),
    receiveBufferBytes: RECEIVE_BUFFER_BYTES,
  });
  return {
    mechanism: "bridge",
    port: sockets.port,
    publicPort: sockets.port,
    families: sockets.families,
    get dropped() {
      return dropped;
    },
    send(bytes, to) {
      const sent = sockets.send(bytes, to);
      if (!sent) drop(1);
      return sent;
    },
    sendMany(packets, to) {
      const sent = sockets.sendMany(packets, to);
      drop(packets.length - sent);
      return sent;
    },
    accept(from, deliver) {
      const key = keyOf(from.address, from.port);
      if (deliver === null) accepted.delete(key);
      else accepted.set(key, deliver);
    },
    openSide: (onDatagram) =>
      openSidePort({
        mark,
        onDatagram(bytes, from, port) {
          const address = parseIp(from);
          if (address === null) drop(1);
          else onDatagram(bytes, { address, port });
        },
        onError: () => drop(1),
        receiveBufferBytes: RECEIVE_BUFFER_BYTES,
      }),
    repair: () => Promise.resolve(false),
    async [Symbol.asyncDispose]() {
      if (isOver) return;
      isOver = true;
      await sockets[Symbol.asyncDispose]();
    },
  };
}

/** As the kernel writes addresses, which for those without a zone is the canonical way too. */
function keyOf(address: string, port: number): string {
  return `${address} ${port}`;
}

const COOKIE = [0x21, 0x12, 0xa4, 0x42] as const;

/** RFC 8489 section 5: two zero bits, and the cookie at byte 4. Everything else is for whoever decodes it. */
function looksLikeStun(bytes: Uint8Array): boolean {
  return bytes.length >= 20 && ((bytes[0] ?? 0xff) & 0xc0) === 0 && COOKIE.every((byte, at) => bytes[4 + at] === byte);
}
