// The UDP relay: one port for each session, at which its two ends are found, and by which their packets reach each other.
import type { udp } from "bun";
import { repeat, Stopped } from "../../base/async.ts";
import { toHex } from "../../base/bytes.ts";
import { errorText } from "../../base/errors.ts";
import { type Endpoint, type Family, familyOf, formatEndpoint, type IpAddress, parseIp } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import type { Service } from "../../base/service.ts";
import { type AddressedBatches, addressedBatches } from "../../net/udp-batch.ts";
import { enlargeReceiveBuffer } from "../../net/udp-options.ts";
import type { KernelRelay } from "./kernel.ts";
import {
  answerBytes,
  challengeBytes,
  readRelayMessage,
  type RelayKeys,
  type RelayMessage,
  senderOf,
  sessionName,
} from "./messages.ts";
import { type ForwardCounters, forwardCounters, ProcessForwarding, type Source } from "./process.ts";
import { bindNow } from "./socket.ts";
import {
  type End,
  freshRelay,
  type Link,
  type RelayEffect,
  type RelayEvent,
  type RelayState,
  sameEndpoint,
  stepRelay,
} from "./state.ts";

/** An address of this machine, and by which the world reaches it. */
export interface RelayPlace {
  readonly local: IpAddress;
  readonly public: IpAddress;
}

export interface UdpRelayOptions {
  /** At most one of each family, in the order in which they are told. */
  readonly places: readonly RelayPlace[];
  /** Both included. */
  readonly ports: { readonly first: number; readonly last: number };
  /** How often the kernel is asked what it passed on. */
  readonly tendMs?: number;
}

export interface UdpRelayDeps {
  /** Null where the process forwards everything. */
  readonly kernel: KernelRelay | null;
  readonly log: Logger;
}

export interface StunRelayCounters {
  /** No Binding message. */
  ignored: number;
  /** Neither made with a key of this session nor from a linked end. */
  forged: number;
}

export interface UdpRelay extends Service {
  /** True while the kernel forwards. */
  readonly kernel: boolean;
  readonly sessions: number;
  readonly bytes: number;
  readonly forwarded: Readonly<ForwardCounters>;
  readonly stun: Readonly<StunRelayCounters>;
  /**
   * Endpoints as text; none when no port is left. `onRelayed` is told how many bytes more were passed on, every few seconds and,
   * for the last time, soon after the end.
   */
  open(session: number, keys: RelayKeys, options?: { readonly onRelayed?: (bytes: number) => void }): readonly string[];
  /** While withheld, nothing of the session is forwarded; its ends stay latched. */
  withhold(session: number, isWithheld: boolean): void;
  /** Tells all meters what was passed on until now. */
  count(): Promise<void>;
  /** From here on nothing of it is forwarded. */
  close(session: number): void;
}

const TICK_MS = 250;
const TEND_MS = 10_000;
/** Ports that are in use by others, one after the other, before a session goes without. */
const ATTEMPTS = 16;
/** Bursts of all that two ends send; a few milliseconds at a gigabit a second. */
const RECEIVE_BYTES = 4 * 1024 * 1024;
const BOTH: ReadonlySet<Family> = new Set([4, 6]);

export function udpRelay(deps: UdpRelayDeps, options: UdpRelayOptions): UdpRelay {
  return new Relay(deps, options);
}

class Relay implements UdpRelay {
  readonly #deps: UdpRelayDeps;
  readonly #options: UdpRelayOptions;
  readonly #bySession = new Map<number, RelayedSession>();
  readonly #usedPorts = new Set<number>();
  readonly #controller = new AbortController();
  readonly #loops: readonly Promise<void>[];
  readonly forwarded = forwardCounters();
  readonly stun: StunRelayCounters = { ignored: 0, forged: 0 };
  #next: number;

  constructor(deps: UdpRelayDeps, options: UdpRelayOptions) {
    this.#deps = deps;
    this.#options = options;
    const { first, last } = options.ports;
    this.#next = first + Math.floor(Math.random() * (last - first + 1));
    const { signal } = this.#controller;
    const onError = (thrown: unknown): void =>
      deps.log.error({ error: errorText(thrown) }, "relay housekeeping failed");
    this.#loops = [
      repeat(() => Promise.resolve(this.#tick()), { everyMs: TICK_MS, signal, onError }),
      repeat(() => deps.kernel?.tend() ?? Promise.resolve(), { everyMs: options.tendMs ?? TEND_MS, signal, onError }),
    ];
  }

  get kernel(): boolean {
    return this.#deps.kernel?.isOn ?? false;
  }

  get sessions(): number {
    return this.#bySession.size;
  }

  get bytes(): number {
    return this.forwarded.bytes + (this.#deps.kernel?.bytes ?? 0);
  }

  open(
    session: number,
    keys: RelayKeys,
    { onRelayed = ignored }: { readonly onRelayed?: (bytes: number) => void } = {},
  ): readonly string[] {
    const { ports, places } = this.#options;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const port = this.#freePort();
      if (port === null) break;
      const { stun, forwarded } = this;
      const opened = openSession({ session, keys, port, places, stun, forwarded, onRelayed, ...this.#deps });
      if (opened === null) continue;
      this.#usedPorts.add(port);
      this.#bySession.set(session, opened);
      return places.map((place) => formatEndpoint({ address: place.public, port }));
    }
    this.#deps.log.warn({ session, ports: `${ports.first}-${ports.last}` }, "no UDP port left for a session");
    return [];
  }

  withhold(session: number, isWithheld: boolean): void {
    this.#bySession.get(session)?.withhold(isWithheld);
  }

  async count(): Promise<void> {
    await this.#deps.kernel?.tend();
    for (const session of this.#bySession.values()) session.report();
  }

  close(session: number): void {
    const relayed = this.#bySession.get(session);
    if (relayed === undefined) return;
    this.#bySession.delete(session);
    this.#usedPorts.delete(relayed.port);
    relayed.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#controller.abort(new Stopped("the relay is stopping"));
    await Promise.all(this.#loops);
    for (const session of [...this.#bySession.keys()]) this.close(session);
  }

  /** One after the other, so that a port rests as long as possible before another session has it. */
  #freePort(): number | null {
    const { first, last } = this.#options.ports;
    for (let tried = first; tried <= last; tried++) {
      const port = this.#next;
      this.#next = port >= last ? first : port + 1;
      if (!this.#usedPorts.has(port) && this.#deps.kernel?.isReserved(port) !== true) return port;
    }
    return null;
  }

  #tick(): void {
    for (const session of this.#bySession.values()) {
      session.step({ kind: "tick" });
      session.report();
    }
  }
}

interface SessionDeps extends UdpRelayDeps {
  readonly session: number;
  readonly keys: RelayKeys;
  readonly port: number;
  readonly places: readonly RelayPlace[];
  readonly stun: StunRelayCounters;
  readonly forwarded: ForwardCounters;
  readonly onRelayed: (bytes: number) => void;
}

function ignored(): void {
  // nobody counts
}

interface OwnSocket {
  readonly socket: udp.Socket<"uint8array">;
  readonly batches: AddressedBatches;
}

type EventBody = RelayEvent extends infer E ? (E extends RelayEvent ? Omit<E, "at" | "nextId"> : never) : never;

class RelayedSession {
  readonly #deps: SessionDeps;
  readonly #sockets = new Map<Family, OwnSocket>();
  readonly #forwarding: ProcessForwarding;
  #state: RelayState;
  #isClosed = false;
  #isWithheld = false;
  #reported = 0;

  constructor(deps: SessionDeps) {
    this.#deps = deps;
    this.#state = freshRelay(deps.kernel?.families ?? BOTH);
    this.#forwarding = new ProcessForwarding({
      socketFor: (family) => this.#sockets.get(family)?.batches ?? null,
      counters: deps.forwarded,
    });
  }

  get port(): number {
    return this.#deps.port;
  }

  /** False when the port is another program's. */
  bind(): boolean {
    const { places, port, kernel } = this.#deps;
    for (const place of places) {
      const socket = bindNow(place.local, port, (bytes, fromPort, fromAddress) => {
        this.#receive(bytes, { port: fromPort, text: fromAddress });
      });
      if (socket === null) {
        this.#closeSockets();
        return false;
      }
      this.#sockets.set(familyOf(place.local), { socket, batches: addressedBatches(socket) });
      if (kernel === null) void enlargeReceiveBuffer(socket, RECEIVE_BYTES);
    }
    kernel?.meter(port, this.#deps.onRelayed);
    void kernel?.set(port, []);
    return true;
  }

  step(body: EventBody): void {
    if (this.#isClosed) return;
    const base = { at: performance.now(), nextId: () => crypto.getRandomValues(new Uint8Array(12)) };
    const { state, effects } = stepRelay(this.#state, { ...body, ...base });
    this.#state = state;
    for (const effect of effects) this.#do(effect);
  }

  withhold(isWithheld: boolean): void {
    if (isWithheld === this.#isWithheld) return;
    this.#isWithheld = isWithheld;
    void this.#forward(this.#state.wanted);
  }

  /** What this process passed on since the last call; the kernel tells of itself. */
  report(): void {
    const bytes = this.#forwarding.bytes - this.#reported;
    this.#reported += bytes;
    if (bytes > 0) this.#deps.onRelayed(bytes);
  }

  close(): void {
    this.#isClosed = true;
    this.#forwarding.set([]);
    this.report();
    this.#closeSockets();
    void this.#deps.kernel?.close(this.#deps.port);
  }

  #closeSockets(): void {
    for (const { socket } of this.#sockets.values()) socket.close();
    this.#sockets.clear();
  }

  #receive(bytes: Uint8Array, source: Source): void {
    if (this.#isClosed) return;
    if (!hasCookie(bytes)) {
      this.#forwarding.forward(bytes, source);
      return;
    }
    const message = readRelayMessage(bytes);
    if (message === null) this.#deps.stun.ignored++;
    else this.#receiveStun(message, bytes, source);
  }

  #receiveStun(message: RelayMessage, bytes: Uint8Array, source: Source): void {
    const { keys, session, stun } = this.#deps;
    const address = parseIp(source.text);
    if (address === null) return;
    const from: Endpoint = { address, port: source.port };
    const { transactionId } = message;
    const asked = this.#state.challenges.get(toHex(transactionId));
    // Whoever does not know the session's name, or what was asked, costs no computing.
    const mayBeOurs = message.kind === "request" ? message.user === sessionName(session) : asked !== undefined;
    const end = mayBeOurs ? senderOf(bytes, keys, asked?.end ?? this.#endAt(from)) : null;
    if (end !== null) this.step({ kind: message.kind, end, from, transactionId });
    else if (this.#forwarding.isLinked(source)) this.#forwarding.pass(bytes, source);
    else stun.forged++;
  }

  #endAt(from: Endpoint): End {
    const latch = this.#state.latches[1][familyOf(from.address)];
    return latch !== null && sameEndpoint(latch.endpoint, from) ? 1 : 0;
  }

  #do(effect: RelayEffect): void {
    const { keys, session, kernel, port } = this.#deps;
    switch (effect.kind) {
      case "challenge":
        this.#send(challengeBytes(effect.transactionId, { session, key: keys.toEnd[effect.end] }), effect.to);
        return;
      case "answer":
        this.#send(
          answerBytes({ transactionId: effect.transactionId, mapped: effect.to }, keys.toEnd[effect.end]),
          effect.to,
        );
        return;
      case "forward":
        void this.#forward(effect.links);
        return;
      case "renew":
        kernel?.renew(port, effect.links);
        return;
    }
  }

  /** What goes stops at once; what comes is passed on when the kernel does it too. */
  async #forward(wanted: readonly Link[]): Promise<void> {
    const isWithheld = this.#isWithheld;
    const links = isWithheld ? [] : wanted;
    this.#forwarding.set(isWithheld ? [] : this.#state.active);
    await this.#deps.kernel?.set(this.#deps.port, links);
    if (this.#isWithheld !== isWithheld) return; // the other way round meanwhile, which did the same with the other links
    this.step({ kind: "forwarding", links });
    if (!this.#isClosed) this.#forwarding.set(this.#state.active);
  }

  /** What has no route, or is larger than the interface takes, stays unanswered, as if it had got lost on the way. */
  #send(bytes: Uint8Array, to: Endpoint): void {
    this.#sockets.get(familyOf(to.address))?.batches.send(bytes, to);
  }
}

function openSession(deps: SessionDeps): RelayedSession | null {
  const session = new RelayedSession(deps);
  return session.bind() ? session : null;
}

/** For every packet: at bytes 4 to 7, STUN's magic cookie. */
function hasCookie(bytes: Uint8Array): boolean {
  return bytes.length >= 20 && bytes[4] === 0x21 && bytes[5] === 0x12 && bytes[6] === 0xa4 && bytes[7] === 0x42;
}
