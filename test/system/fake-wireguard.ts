// A WireGuard device without cryptography: a real UDP socket that sends and takes packets of WireGuard's shapes.
//
//   initiation (type 1, 148 bytes) and response (type 2, 92): | type u8 | 0 0 0 | sender's key 32 | receiver's key 32 | … |
//   data (type 4):                                            | type u8 | 0 0 0 | sender's key 32 | receiver's key 32 | text |
import { fromBase64, toBase64, utf8, utf8Text } from "../../src/base/bytes.ts";
import type { Cidr, Endpoint, IpAddress } from "../../src/base/ip.ts";
import type { PeerStats, WireGuardConfig, WireGuardDevice, WireGuardPeer } from "../../src/net/wg/device.ts";
import { type WireGuardKey, wireGuardKeyOf } from "../../src/proto/keys.ts";

const INITIATION = 1;
const RESPONSE = 2;
const DATA = 4;
/** WireGuard's own is 5 s (its paper, section 6.4); a test need not wait as long. */
const RETRY_MS = 20;

interface LivePeer {
  config: WireGuardPeer;
  endpoint: Endpoint | null;
  lastHandshakeMs: number | null;
}

export class FakeWireGuard implements WireGuardDevice, AsyncDisposable {
  /** Texts of data packets that came from a known peer. */
  readonly received: { readonly from: WireGuardKey; readonly text: string }[] = [];
  /** Every key that a packet was ever sent to. */
  readonly sentTo = new Set<WireGuardKey>();
  /** Every key that was ever set as a peer. */
  readonly everPeers = new Set<WireGuardKey>();
  readonly #peers = new Map<WireGuardKey, LivePeer>();
  #socket: Bun.udp.Socket<"uint8array"> | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;
  #key = "" as WireGuardKey;

  async apply(config: WireGuardConfig): Promise<void> {
    this.#key = wireGuardKeyOf(config.privateKey);
    this.#socket ??= await Bun.udpSocket({
      hostname: "127.0.0.1",
      port: config.listenPort,
      binaryType: "uint8array",
      socket: {
        data: (_socket, packet, port, address) => this.#take(packet, { address: address as IpAddress, port }),
        error: () => undefined,
      },
    });
    this.#timer ??= setInterval(() => this.#greet(), RETRY_MS);
  }

  setPeer(peer: WireGuardPeer): Promise<void> {
    const before = this.#peers.get(peer.publicKey);
    this.#peers.set(peer.publicKey, {
      config: peer,
      endpoint: peer.endpoint ?? before?.endpoint ?? null,
      lastHandshakeMs: before?.lastHandshakeMs ?? null,
    });
    this.everPeers.add(peer.publicKey);
    this.#greet();
    return Promise.resolve();
  }

  setEndpoint(publicKey: WireGuardKey, endpoint: Endpoint): Promise<void> {
    const peer = this.#peers.get(publicKey);
    if (peer !== undefined) peer.endpoint = endpoint;
    return Promise.resolve();
  }

  verify(): Promise<readonly string[]> {
    return Promise.resolve([]);
  }

  removePeer(publicKey: WireGuardKey): Promise<void> {
    this.#peers.delete(publicKey);
    return Promise.resolve();
  }

  stats(): Promise<readonly PeerStats[]> {
    return Promise.resolve(
      [...this.#peers].map(([publicKey, { endpoint, lastHandshakeMs }]) => ({
        publicKey,
        endpoint,
        lastHandshakeMs,
        rxBytes: 0,
        txBytes: 0,
      })),
    );
  }

  counters(): Promise<{ rxBytes: number; txBytes: number; rxPackets: number; txPackets: number }> {
    return Promise.resolve({ rxBytes: 0, txBytes: 0, rxPackets: 0, txPackets: 0 });
  }

  transfers(): Promise<ReadonlyMap<WireGuardKey, { rxBytes: number; txBytes: number }>> {
    return Promise.resolve(new Map());
  }

  settings(): Promise<string | null> {
    return Promise.resolve(null);
  }

  prefixes(): Promise<ReadonlyMap<WireGuardKey, readonly Cidr[]>> {
    return Promise.resolve(new Map([...this.#peers].map(([key, { config }]) => [key, config.allowedIps])));
  }

  implementation(): null {
    return null;
  }

  reset(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#socket?.close();
    this.#socket = null;
    this.#peers.clear();
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.reset();
  }

  keys(): WireGuardKey[] {
    return [...this.#peers.keys()];
  }

  allowedIps(key: WireGuardKey): string[] {
    return (this.#peers.get(key)?.config.allowedIps ?? []).map(String).sort();
  }

  /** What a person's traffic would be. False for who is no peer. */
  say(to: WireGuardKey, text: string): boolean {
    const peer = this.#peers.get(to);
    if (peer === undefined) return false;
    this.#send(DATA, to, peer.endpoint, utf8(text));
    return true;
  }

  heard(text: string): boolean {
    return this.received.some((packet) => packet.text === text);
  }

  #greet(): void {
    for (const [key, peer] of this.#peers) {
      if (peer.lastHandshakeMs === null) this.#send(INITIATION, key, peer.endpoint, new Uint8Array(80));
    }
  }

  #send(type: number, to: WireGuardKey, endpoint: Endpoint | null, rest: Uint8Array): void {
    if (endpoint === null || this.#socket === null) return;
    const packet = new Uint8Array(68 + rest.length);
    packet[0] = type;
    packet.set(fromBase64(this.#key) ?? [], 4);
    packet.set(fromBase64(to) ?? [], 36);
    packet.set(rest, 68);
    this.sentTo.add(to);
    this.#socket.send(packet, endpoint.port, endpoint.address);
  }

  #take(packet: Uint8Array, from: Endpoint): void {
    if (packet.length < 68 || toBase64(packet.subarray(36, 68)) !== this.#key) return;
    const key = toBase64(packet.subarray(4, 36)) as WireGuardKey;
    const peer = this.#peers.get(key);
    if (peer === undefined) return;
    peer.endpoint = from; // as WireGuard roams
    if (packet[0] === INITIATION) this.#send(RESPONSE, key, from, new Uint8Array(24));
    if (packet[0] === INITIATION || packet[0] === RESPONSE) peer.lastHandshakeMs = Date.now();
    if (packet[0] === DATA) this.received.push({ from: key, text: utf8Text(packet.subarray(68)) });
  }
}

/** A UDP port that was free a moment ago. */
export async function freeUdpPort(): Promise<number> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  const { port } = socket;
  socket.close();
  return port;
}
