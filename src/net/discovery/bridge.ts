// Discovery without nft: a socket of ours has the public port, takes STUN for itself, and hands each peer's packets on to WireGuard.
//
// internet <-> public port <-> STUN: onMessage
//                          <-> a peer's WireGuard packets <-> its loopback socket <-> WireGuard
import { type Endpoint, formatEndpoint, parseIp } from "../../base/ip.ts";
import type { Service } from "../../base/service.ts";
import { looksLikeWireGuard } from "../../proto/wireguard-packet.ts";
import {
  type Discovery,
  DiscoveryFailed,
  type DiscoveryOptions,
  type DiscoveryPort,
  type PeerRoute,
  type PeerSocket,
} from "./discovery.ts";
import type { Identifiers } from "../identifiers.ts";
import { enlargeReceiveBuffer } from "../udp-options.ts";
import { openPortSockets, openSidePort } from "./port-sockets.ts";

const LOOPBACK = "127.0.0.1";
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
  const peers = new Map<string, Peer>();
  const open = new Set<PeerSocket>();
  const sockets = await openPortSockets({
    port: options.publicPort ?? 0,
    onDatagram(bytes, from, port) {
      if (looksLikeWireGuard(bytes, 0, bytes.length)) {
        const peer = peers.get(keyOf(from, port));
        if (peer === undefined) drop(1);
        else peer.deliver(bytes);
        return;
      }
      const address = parseIp(from);
      if (address === null || !looksLikeStun(bytes)) drop(1);
      else options.onMessage(bytes, { address, port });
    },
    onError: () => drop(1),
    receiveBufferBytes: RECEIVE_BUFFER_BYTES,
  });
  let isOver = false;
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
    async peerSocket(route) {
      const send = (packets: readonly Uint8Array[], to: Endpoint): void =>
        drop(packets.length - sockets.sendMany(packets, to));
      const peer = await openPeer({ route, wireGuardPort: options.wireGuardPort, send, drop });
      const claim = (next: PeerRoute): void => {
        release(peers, peer);
        for (const from of [next.to, ...(next.alsoFrom ?? [])]) peers.set(keyOf(from.address, from.port), peer);
      };
      claim(route);
      const socket: PeerSocket = {
        endpoint: peer.endpoint,
        setRoute(next) {
          peer.to = next.to;
          claim(next);
        },
        async [Symbol.asyncDispose]() {
          open.delete(socket);
          release(peers, peer);
          await peer[Symbol.asyncDispose]();
        },
      };
      open.add(socket);
      return socket;
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
      for (const socket of [...open]) await socket[Symbol.asyncDispose]();
      await sockets[Symbol.asyncDispose]();
    },
  };
}

/** As the kernel writes addresses, which for those without a zone is the canonical way too. */
function keyOf(address: string, port: number): string {
  return `${address} ${port}`;
}

function release(peers: Map<string, Peer>, gone: Peer): void {
  for (const [key, peer] of peers) if (peer === gone) peers.delete(key);
}

interface Peer extends Service {
  readonly endpoint: Endpoint;
  to: Endpoint;
  deliver(packet: Uint8Array): void;
}

/** What arrives in one turn of the event loop leaves with one system call. */
async function openPeer(options: {
  readonly route: PeerRoute;
  readonly wireGuardPort: number;
  readonly send: (packets: readonly Uint8Array[], to: Endpoint) => void;
  readonly drop: (count: number) => void;
}): Promise<Peer> {
  const { drop } = options;
  const address = parseIp(LOOPBACK);
  const outgoing = batch((packets) => options.send(packets, peer.to), drop);
  const incoming = batch((packets) => {
    try {
      drop(packets.length - socket.sendMany(packets));
    } catch {
      drop(packets.length); // WireGuard is not there
    }
  }, drop);
  const socket = await Bun.udpSocket({
    hostname: LOOPBACK,
    port: 0,
    connect: { hostname: LOOPBACK, port: options.wireGuardPort },
    binaryType: "uint8array",
    socket: {
      data: (_socket, packet) => outgoing.add(packet),
      error: () => drop(1), // ICMP of a WireGuard that is not up yet; without a handler it would end the process
    },
  }).catch((cause: unknown) => {
    throw failed(`Cannot open a loopback socket for ${formatEndpoint(options.route.to)}.`, cause);
  });
  if (address === null) throw failed("Cannot name the loopback address.");
  await enlargeReceiveBuffer(socket, RECEIVE_BUFFER_BYTES);
  const peer: Peer = {
    endpoint: { address, port: socket.port },
    to: options.route.to,
    deliver: (packet) => incoming.add(packet),
    [Symbol.asyncDispose]() {
      outgoing.close();
      incoming.close();
      if (!socket.closed) socket.close();
      return Promise.resolve();
    },
  };
  return peer;
}

function batch(flush: (packets: readonly Uint8Array[]) => void, drop: (count: number) => void) {
  let waiting: Uint8Array[] = [];
  let isClosed = false;
  return {
    add(packet: Uint8Array): void {
      if (isClosed || waiting.length >= MOST_WAITING) {
        drop(1);
        return;
      }
      if (waiting.length === 0) {
        setImmediate(() => {
          const packets = waiting;
          waiting = [];
          if (packets.length > 0 && !isClosed) flush(packets);
        });
      }
      waiting.push(packet);
    },
    close(): void {
      isClosed = true;
      waiting = [];
    },
  };
}

const COOKIE = [0x21, 0x12, 0xa4, 0x42] as const;

/** RFC 8489 section 5: two zero bits, and the cookie at byte 4. Everything else is for whoever decodes it. */
function looksLikeStun(bytes: Uint8Array): boolean {
  return bytes.length >= 20 && ((bytes[0] ?? 0xff) & 0xc0) === 0 && COOKIE.every((byte, at) => bytes[4 + at] === byte);
}

function failed(message: string, cause?: unknown): DiscoveryFailed {
  return new DiscoveryFailed(message, { code: "socket-failed", cause });
}
