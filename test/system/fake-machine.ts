// One end of a session on the little internet: the real search for paths over a WireGuard that roams as the real one does.
import { parseCidr, type Endpoint, formatEndpoint, type IpAddress } from "../../src/base/ip.ts";
import type { Logger } from "../../src/base/log.ts";
import type { Discovery, DiscoveryPort, SidePort } from "../../src/net/discovery/discovery.ts";
import type { Links } from "../../src/net/links.ts";
import type { Redirect, RedirectPolicy } from "../../src/net/redirect.ts";
import type { WireGuardDevice } from "../../src/net/wg/device.ts";
import type { Bridge } from "../../src/peer/bridge.ts";
import type { PathKind } from "../../src/peer/path-info.ts";
import { openPaths, type Paths } from "../../src/peer/paths.ts";
import type { MachineId, WireGuardKey } from "../../src/proto/keys.ts";
import type { EndName, FakeHost, FakeInternet, FakeServer } from "./fake-internet.ts";
import { probeOf, SESSION, STUN_KEY } from "./fake-internet.ts";
import type { FakeNat } from "./fake-nat.ts";

const BRIDGE = { address: "127.0.0.1" as IpAddress, port: 7 };
const silent = (): void => undefined;
const LOG: Logger = { error: silent, warn: silent, info: silent, debug: silent, trace: silent, child: () => LOG };
const COOKIE = 0x2112_a442;

export interface MachineOptions {
  readonly end: EndName;
  readonly address: IpAddress;
  readonly nat: FakeNat | null;
  readonly lan: string;
  readonly port?: number;
  readonly relay?: boolean;
  readonly allowed?: readonly PathKind[];
  /** Default true. */
  readonly guesses?: boolean;
  readonly log?: Logger;
}

export class FakeMachine {
  readonly end: EndName;
  readonly arrived: number[] = [];
  /** Where each arrived from: a path's endpoint, or "wss". */
  readonly ways: string[] = [];
  /** Every move, as text. */
  readonly moves: string[] = [];
  other: FakeMachine | null = null;
  /** Of the routes to the peer; null for the device's own. */
  mtu: number | null = null;
  wssDelayMs = 40;
  wssWorks = true;
  links: Links;
  address: IpAddress;
  readonly port: number;
  readonly options: MachineOptions;
  readonly #net: FakeInternet;
  readonly #server: FakeServer;
  #host: FakeHost;
  #remove: () => void;
  #endpoint: Endpoint = BRIDGE;
  #policy: RedirectPolicy = { wireGuardPort: 0, redirects: [], dropFrom: [] };
  #divert: ((packets: readonly Uint8Array[]) => number) | null = null;
  #onMessage: (bytes: Uint8Array, from: Endpoint) => void = silent;
  readonly #sides = new Map<number, (bytes: Uint8Array, from: Endpoint) => void>();
  #paths: Paths | null = null;
  #lastSide = 52_000;
  #sequence = 0;
  #tx = 0;
  #rx = 0;

  constructor(net: FakeInternet, server: FakeServer, options: MachineOptions) {
    this.#net = net;
    this.#server = server;
    this.options = options;
    this.end = options.end;
    this.address = options.address;
    this.port = options.port ?? (options.end === "a" ? 51_820 : 51_821);
    this.links = linksOf(options.address);
    this.#host = this.#makeHost(options.nat, options.lan);
    this.#remove = net.add(this.#host);
  }

  get paths(): Paths {
    if (this.#paths === null) throw new Error("the machine was not started");
    return this.#paths;
  }

  get kind(): PathKind | null {
    return this.#view?.kind ?? null;
  }

  get endpoint(): string | null {
    const endpoint = this.#view?.endpoint ?? null;
    return endpoint === null ? null : formatEndpoint(endpoint);
  }

  get view() {
    const view = this.#view;
    if (view === null) throw new Error("no session");
    return view;
  }

  get #view() {
    return this.paths.view(this.#peer);
  }

  get policy(): RedirectPolicy {
    return this.#policy;
  }

  /** Where WireGuard sends. */
  get wireGuardEndpoint(): string {
    return formatEndpoint(this.#endpoint);
  }

  get #peer(): MachineId {
    return (this.end === "a" ? "b" : "a") as MachineId;
  }

  async start(signal = new AbortController().signal): Promise<void> {
    const { allowed, relay, log, guesses } = this.options;
    const bridge: Bridge = {
      endpoint: BRIDGE,
      setSession: silent,
      divert: (send) => {
        this.#divert = send;
      },
      inject: (packets) => {
        for (const packet of packets) this.#arrive(packet, BRIDGE);
      },
      dropped: 0,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    const redirect: Redirect = {
      apply: (policy) => {
        this.#policy = policy;
        return Promise.resolve();
      },
      reset: () => Promise.resolve(),
    };
    this.#paths = await openPaths(
      {
        discovery: () => Promise.resolve(this.#discoveryPort()),
        redirect,
        device: this.#device(),
        peerMtus: {
          apply: (peers) => {
            this.mtu = peers[0]?.mtu ?? null;
            return Promise.resolve();
          },
        },
        readLinks: () => Promise.resolve(this.links),
        send: (message) => this.#server.hear(this.end, message),
        canRelay: () => this.wssWorks && this.other?.wssWorks === true,
        probeServer: silent,
        stun: () => ({ credential: { user: this.end, key: STUN_KEY }, servers: this.#server.stun }),
        log: log ?? LOG,
      },
      {
        wireGuardPort: this.port,
        publicPort: this.port,
        ranges: [parseCidr("10.77.0.0/16") ?? fail()],
        allowed: new Set(allowed ?? ["direct", "udp-relay", "wss"]),
        manual: null,
        guessesPorts: guesses ?? true,
        ipv6: true,
        onChange: () => this.moves.push(`${this.kind ?? "none"} ${this.endpoint ?? ""}`.trim()),
      },
      signal,
    );
    this.#server.join(this.end, (message) => this.paths.take(message));
    this.#paths.sync([
      {
        peer: this.#peer,
        peerName: this.#peer,
        wireGuard: `key of ${this.#peer}` as WireGuardKey,
        allowedIps: [parseCidr("10.77.0.2/32") ?? fail()],
        session: {
          id: SESSION,
          peer: this.#peer,
          kind: "wireguard",
          initiator: this.end === "a",
          probe: probeOf(this.end, relay ?? true),
        },
        bridge,
        living: null,
      },
    ]);
  }

  /** Another network: Wi-Fi to mobile, or a router that got another address. */
  moveTo(place: { readonly address: IpAddress; readonly nat: FakeNat | null; readonly lan: string }): void {
    this.#remove();
    this.address = place.address;
    this.links = linksOf(place.address);
    this.#host = this.#makeHost(place.nat, place.lan);
    this.#remove = this.#net.add(this.#host);
    this.paths.networkChanged();
  }

  /** One inner packet; its number. */
  sendPacket(sizeBytes = 128): number {
    const packet = new Uint8Array(sizeBytes);
    packet[0] = 4;
    new DataView(packet.buffer).setUint32(16, ++this.#sequence);
    this.#tx++;
    this.#leave(packet);
    return this.#sequence;
  }

  /** So many a second until it is cleared. */
  traffic(everyMs: number, sizeBytes = 128): { stop: () => void } {
    const timer = setInterval(() => this.sendPacket(sizeBytes), everyMs);
    return { stop: () => clearInterval(timer) };
  }

  /** A datagram as if it came from there, whoever sent it. */
  inject(bytes: Uint8Array, from: Endpoint): void {
    this.#host.take({ from, to: { address: this.address, port: this.port }, bytes });
  }

  async stop(): Promise<void> {
    await this.#paths?.[Symbol.asyncDispose]();
    this.#remove();
  }

  #leave(packet: Uint8Array): void {
    if (formatEndpoint(this.#endpoint) === formatEndpoint(BRIDGE)) {
      if (this.#divert === null) this.#toRelay(packet);
      else this.#divert([packet]);
      return;
    }
    const key = formatEndpoint(this.#endpoint);
    const redirect = this.#policy.redirects.find(({ from }) => formatEndpoint(from) === key);
    const to = redirect?.to ?? this.#endpoint;
    const side = this.#policy.sides?.find((one) => one.leaves && formatEndpoint(one.peer) === formatEndpoint(to));
    this.#emit(packet, to, side?.port);
  }

  #toRelay(packet: Uint8Array): void {
    const { other } = this;
    if (other === null || !this.wssWorks || !other.wssWorks) return;
    setTimeout(() => {
      other.#arrive(packet, BRIDGE);
      other.paths.relayed(other.#peer);
    }, this.wssDelayMs);
  }

  #emit(bytes: Uint8Array, to: Endpoint, port = this.port): boolean {
    this.#net.send(this.#host, { from: { address: this.address, port }, to, bytes });
    return true;
  }

  #arrive(packet: Uint8Array, from: Endpoint): void {
    const key = formatEndpoint(from);
    if (this.#policy.dropFrom.some((one) => formatEndpoint(one) === key)) return;
    this.#endpoint = from;
    this.#rx++;
    this.arrived.push(new DataView(packet.buffer, packet.byteOffset).getUint32(16));
    this.ways.push(key === formatEndpoint(BRIDGE) ? "wss" : key);
  }

  #makeHost(nat: FakeNat | null, lan: string): FakeHost {
    return {
      address: this.address,
      nat,
      lan,
      take: ({ from, to, bytes }) => {
        const isStun = bytes.length >= 20 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(4) === COOKIE;
        if (to.port !== this.port) {
          const isLedBack = this.#policy.sides?.some(
            (one) => one.port === to.port && formatEndpoint(one.peer) === formatEndpoint(from),
          );
          if (isLedBack === true && !isStun) this.#arrive(bytes, from);
          else this.#sides.get(to.port)?.(bytes, from);
        } else if (isStun) {
          this.#onMessage(bytes, from);
        } else {
          this.#arrive(bytes, from);
        }
      },
    };
  }

  get openSides(): number {
    return this.#sides.size;
  }

  #openSide(onDatagram: (bytes: Uint8Array, from: Endpoint) => void): Promise<SidePort> {
    const port = ++this.#lastSide;
    this.#sides.set(port, onDatagram);
    return Promise.resolve({
      port,
      send: (bytes, to) => this.#emit(bytes, to, port),
      sendMany: (packets, to) => packets.filter((packet) => this.#emit(packet, to, port)).length,
      [Symbol.asyncDispose]: () => {
        this.#sides.delete(port);
        return Promise.resolve();
      },
    });
  }

  #discoveryPort(): DiscoveryPort {
    const discovery: Discovery = {
      mechanism: "nft",
      port: this.port + 1000,
      publicPort: this.port,
      families: [4],
      send: (bytes, to) => this.#emit(bytes, to),
      sendMany: (packets, to) => {
        for (const packet of packets) this.#emit(packet, to);
        return packets.length;
      },
      accept: () => undefined,
      openSide: (onDatagram) => this.#openSide(onDatagram),
      repair: () => Promise.resolve(false),
      dropped: 0,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    return {
      mechanism: "nft",
      open: (options) => {
        this.#onMessage = options.onMessage;
        return Promise.resolve(discovery);
      },
    };
  }

  #device(): WireGuardDevice {
    const stats = { lastHandshakeMs: null, rxBytes: 0, txBytes: 0 };
    return {
      apply: () => Promise.resolve(),
      setPeer: () => Promise.resolve(),
      setEndpoint: (_key, endpoint) => {
        this.#endpoint = endpoint;
        return Promise.resolve();
      },
      removePeer: () => Promise.resolve(),
      stats: () =>
        Promise.resolve([{ ...stats, publicKey: `key of ${this.#peer}` as WireGuardKey, endpoint: this.#endpoint }]),
      verify: () => Promise.resolve([]),
      counters: () => Promise.resolve({ rxBytes: 0, txBytes: 0, rxPackets: this.#rx, txPackets: this.#tx }),
      transfers: () => Promise.resolve(new Map()),
      settings: () => Promise.resolve(null),
      prefixes: () => Promise.resolve(new Map()),
      implementation: () => null,
      reset: () => Promise.resolve(),
    };
  }
}

function linksOf(address: IpAddress): Links {
  const prefix = parseCidr(`${address}/24`) ?? fail();
  return {
    uplinks: [{ interface: "eth0", family: 4, gateway: null, metric: 100 }],
    connected: [{ interface: "eth0", prefix }],
    addresses: [
      {
        interface: "eth0",
        address,
        prefixLength: 24,
        scope: "global",
        temporary: false,
        deprecated: false,
        tentative: false,
      },
    ],
    delegated: [],
    mtus: new Map([["eth0", 1500]]),
  };
}

function fail(): never {
  throw new Error("a constant of the test is wrong");
}
