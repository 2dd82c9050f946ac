// A little internet in one process, on the fake timers of bun:test: hosts, routers, delay, loss and small MTUs, and a server's part of paths.
import { jest } from "bun:test";
import { toBase64Url } from "../../src/base/bytes.ts";
import { type Endpoint, formatEndpoint, type IpAddress } from "../../src/base/ip.ts";
import type { MachineMessage, ServerMessage } from "../../src/proto/control.ts";
import type { Candidate, Probe } from "../../src/proto/path.ts";
import { bindingSuccess, checkIntegrity, decodeStun, encodeStun } from "../../src/proto/stun.ts";
import type { FakeNat } from "./fake-nat.ts";

export interface Datagram {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly bytes: Uint8Array;
}

export interface FakeHost {
  readonly address: IpAddress;
  readonly nat: FakeNat | null;
  /** Hosts with the same text reach each other without a router. */
  readonly lan: string;
  readonly take: (datagram: Datagram) => void;
}

export class FakeInternet {
  /** One way, between any two places; null drops. What the world sees of the two is given. */
  delayMs: (datagram: Datagram) => number | null = () => 10;
  /** UDP payloads beyond this are lost without a word. */
  sizeLimit: (datagram: Datagram) => number = () => 1_472;
  /** Every datagram that a host sent, as it left the host. */
  readonly sent: { readonly at: number; readonly datagram: Datagram }[] = [];
  readonly #hosts = new Set<FakeHost>();
  #seed = 1;

  /** The same numbers in every run. */
  readonly random = (): number => {
    this.#seed = (Math.imul(this.#seed, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return (this.#seed >>> 8) / 0x80_0000;
  };

  add(host: FakeHost): () => void {
    this.#hosts.add(host);
    return () => void this.#hosts.delete(host);
  }

  send(host: FakeHost, datagram: Datagram): void {
    this.sent.push({ at: performance.now(), datagram });
    const neighbour = [...this.#hosts].find((one) => one.lan === host.lan && one.address === datagram.to.address);
    if (neighbour !== undefined) {
      if (neighbour !== host) this.#deliver(datagram, (arrived) => neighbour.take(arrived));
      return;
    }
    const from = host.nat === null ? datagram.from : host.nat.outbound(datagram.from, datagram.to);
    if (from === null) return;
    this.#deliver({ ...datagram, from }, (arrived) => this.#arrive(arrived));
  }

  #deliver(datagram: Datagram, take: (datagram: Datagram) => void): void {
    const delay = this.delayMs(datagram);
    if (delay === null || datagram.bytes.length > this.sizeLimit(datagram)) return;
    const copy = { ...datagram, bytes: datagram.bytes.slice() };
    setTimeout(() => take(copy), delay);
  }

  #arrive(datagram: Datagram): void {
    for (const host of [...this.#hosts]) {
      if (host.nat === null) {
        if (host.address === datagram.to.address) host.take(datagram);
      } else if (host.nat.publicAddress === datagram.to.address) {
        const inner = host.nat.inbound(datagram.to.port, datagram.from);
        if (inner?.address === host.address) host.take({ ...datagram, to: inner });
      }
    }
  }
}

/** Lets everything that waits for promises and immediates go on. */
async function settle(): Promise<void> {
  for (let i = 0; i < 15; i++) await Promise.resolve();
}

export async function advance(ms: number, stepMs = 2): Promise<void> {
  for (let gone = 0; gone < ms; gone += stepMs) {
    jest.advanceTimersByTime(Math.min(stepMs, ms - gone));
    await settle();
  }
}

/** Virtual milliseconds until it is so; null when it is not within `mostMs`. */
export async function until(what: () => boolean, mostMs: number, stepMs = 2): Promise<number | null> {
  const start = performance.now();
  while (performance.now() - start <= mostMs) {
    if (what()) return performance.now() - start;
    await advance(stepMs, stepMs);
  }
  return null;
}

export const SERVER = "203.0.113.10" as IpAddress;
export const STUN_PORTS: readonly number[] = [3478, 3479];
const PUNCH_APART_MS = 500;
export const RELAY_PORT = 40_000;
export const SESSION = 0xabcd;
const key = (fill: number): Uint8Array => new Uint8Array(32).fill(fill);
export const STUN_KEY = toBase64Url(key(9));
/** Between the ends, and between each end and the relay, for each direction. */
export const KEYS = { aToB: key(1), bToA: key(2), aToS: key(3), sToA: key(4), bToS: key(5), sToB: key(6) };

export type EndName = "a" | "b";

export function probeOf(end: EndName, relay: boolean): Probe {
  const [send, receive] = end === "a" ? [KEYS.aToB, KEYS.bToA] : [KEYS.bToA, KEYS.aToB];
  const [up, down] = end === "a" ? [KEYS.aToS, KEYS.sToA] : [KEYS.bToS, KEYS.sToB];
  return {
    sendKey: toBase64Url(send),
    receiveKey: toBase64Url(receive),
    relay: relay
      ? { endpoints: [`${SERVER}:${RELAY_PORT}`], sendKey: toBase64Url(up), receiveKey: toBase64Url(down) }
      : null,
  };
}

/** STUN on two ports, a relay that latches whoever has the key, candidates passed on, and the same instant told to both ends. */
export class FakeServer {
  readonly host: FakeHost;
  readonly stun: readonly Endpoint[] = STUN_PORTS.map((port) => ({ address: SERVER, port }));
  relayWorks = true;
  /** False: a candidate is never said to have been seen. */
  saysSeen = true;
  /** False: a server, or a peer, of an earlier version. */
  passesNat = true;
  /** How much earlier or later an end is told to start, in milliseconds. */
  readonly skewMs: Record<EndName, number> = { a: 0, b: 0 };
  controlDelayMs = 10;
  punches = 0;
  readonly #net: FakeInternet;
  readonly #ends = new Map<EndName, (message: Extract<ServerMessage, { type: "candidates" | "punch" }>) => void>();
  readonly #rounds = new Map<EndName, number>();
  readonly #seen = new Set<string>();
  #punchedAt = Number.NEGATIVE_INFINITY;
  #waiting = false;
  readonly #latched = new Map<EndName, Endpoint>();
  readonly candidates = new Map<EndName, readonly Candidate[]>();

  constructor(net: FakeInternet) {
    this.#net = net;
    this.host = { address: SERVER, nat: null, lan: "server", take: (datagram) => this.#take(datagram) };
    net.add(this.host);
  }

  join(end: EndName, take: (message: Extract<ServerMessage, { type: "candidates" | "punch" }>) => void): void {
    this.#ends.set(end, take);
  }

  /** The control stream of an end. */
  hear(end: EndName, message: MachineMessage): boolean {
    if (message.type !== "candidates") return true;
    setTimeout(() => this.#pass(end, message), this.controlDelayMs);
    return true;
  }

  #pass(end: EndName, message: Extract<MachineMessage, { type: "candidates" }>): void {
    const other = end === "a" ? "b" : "a";
    const candidates = message.candidates.map((one) =>
      this.saysSeen && this.#seen.has(one.endpoint) ? { ...one, seen: true } : one,
    );
    this.candidates.set(end, candidates);
    this.#rounds.set(end, message.round);
    const { nat: _, ...rest } = message;
    const passed = { ...(this.passesNat ? message : rest), candidates };
    setTimeout(() => this.#ends.get(other)?.(passed), this.controlDelayMs);
    if (this.#rounds.size === 2) this.#punch();
  }

  /** Not twice within half a second, as the real one. */
  #punch(): void {
    if (this.#waiting) return;
    const waitMs = this.#punchedAt + PUNCH_APART_MS - performance.now();
    if (waitMs > 0) {
      this.#waiting = true;
      setTimeout(() => {
        this.#waiting = false;
        this.#punch();
      }, waitMs);
      return;
    }
    this.#punchedAt = performance.now();
    this.punches++;
    for (const [name, tell] of this.#ends) {
      const inMs = Math.max(0, 1.5 * 2 * this.controlDelayMs + this.skewMs[name]);
      const round = this.#rounds.get(name) ?? 1;
      setTimeout(() => tell({ type: "punch", session: SESSION, round, inMs }), this.controlDelayMs);
    }
  }

  #take({ from, to, bytes }: Datagram): void {
    const message = decodeStun(bytes);
    if (STUN_PORTS.includes(to.port) && message?.class === "request" && checkIntegrity(bytes, key(9))) {
      this.#seen.add(formatEndpoint(from));
      this.#answer({ from: to, to: from, id: message.transactionId, key: key(9) });
    }
    if (to.port === RELAY_PORT && this.relayWorks) this.#relay({ from, to, bytes });
  }

  #relay({ from, to, bytes }: Datagram): void {
    const message = decodeStun(bytes);
    for (const [end, up, down] of [
      ["a", KEYS.aToS, KEYS.sToA],
      ["b", KEYS.bToS, KEYS.sToB],
    ] as const) {
      if (message?.class !== "request" || !checkIntegrity(bytes, up)) continue;
      this.#latched.set(end, from);
      this.#answer({ from: to, to: from, id: message.transactionId, key: down });
      return;
    }
    for (const [end, latched] of this.#latched) {
      const other = this.#latched.get(end === "a" ? "b" : "a");
      if (formatEndpoint(latched) !== formatEndpoint(from) || other === undefined) continue;
      this.#net.send(this.host, { from: to, to: other, bytes });
    }
  }

  #answer(what: { from: Endpoint; to: Endpoint; id: Uint8Array; key: Uint8Array }): void {
    const bytes = encodeStun(bindingSuccess(what.id, { mapped: what.to }), { integrityKey: what.key });
    this.#net.send(this.host, { from: what.from, to: what.to, bytes });
  }
}
