// One control connection: reads a machine's messages one after the other, and never lets what waits for it grow without bound.
import { SerialQueue } from "../../base/async.ts";
import type { IpAddress } from "../../base/ip.ts";
import {
  CLOSE,
  type MachineMessage,
  machineMessageSchema,
  MOST_CONTROL_BYTES,
  type ServerMessage,
} from "../../proto/control.ts";
import type { MachineId } from "../../proto/keys.ts";
import { type Rate, RateLimit } from "../../base/rate-limit.ts";
import { type Socket, type SocketEvents, shut } from "../socket.ts";
import { RoundTrip } from "./round-trip.ts";

/** A machine that connects to all its peers at once, and then some. */
const MESSAGES: Rate = { burst: 256, perMs: 30_000 };
/** Messages that were read and are not handled yet; the database is what they wait for. */
const MOST_PENDING = 64;
/** Short messages (sessions that came or ended) that wait for a slow reader. Deltas wait as a set of ids, which cannot grow past the peers. */
const MOST_WAITING = 256;
/** A reader that has not taken what it was sent for this long is gone, or might as well be. */
export const MOST_BLOCKED_MS = 15_000;

export interface ControlOwner {
  /** The connection is open. */
  opened(connection: ControlConnection): void;
  /** It may be answered through `connection.send`; never throws for what a machine may send. */
  handle(connection: ControlConnection, message: MachineMessage): Promise<void>;
  /** The deltas for these machines, as texts, in order. */
  deltas(connection: ControlConnection, dirty: ReadonlySet<MachineId>): string[];
  closed(connection: ControlConnection): void;
  /** Something that is no message of ours came in; the connection is closed for it. */
  malformed(connection: ControlConnection): void;
}

export class ControlConnection implements SocketEvents {
  readonly machine: MachineId;
  readonly address: IpAddress | null;
  readonly #owner: ControlOwner;
  readonly #queue = new SerialQueue();
  readonly #limit = new RateLimit([MESSAGES], 1);
  readonly #dirty = new Set<MachineId>();
  readonly #waiting: string[] = [];
  readonly #roundTrip = new RoundTrip();
  #socket: Socket | null = null;
  #pending = 0;
  #blockedSince: number | null = null;
  #isOver = false;

  constructor(owner: ControlOwner, machine: MachineId, address: IpAddress | null) {
    this.#owner = owner;
    this.machine = machine;
    this.address = address;
  }

  /** Null before it was measured. */
  get roundTripMs(): number | null {
    return this.#roundTrip.ms;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  open(socket: Socket): void {
    this.#socket = socket;
    // Before the welcome, which may be long and would be waited for.
    this.#ping();
    this.#owner.opened(this);
  }

  pong(payload: Uint8Array): void {
    const isFirst = this.#roundTrip.ms === null;
    // The first one waited for the machine to get ready.
    if (this.#roundTrip.answered(payload, performance.now()) && isFirst) this.#ping();
  }

  #ping(): void {
    if (!this.#isOver) this.#socket?.ping(this.#roundTrip.ask(performance.now()));
  }

  message(data: string | Uint8Array<ArrayBuffer>): void {
    if (this.#isOver) return;
    const message = typeof data === "string" ? parseMessage(data) : null;
    if (message === null) {
      this.#owner.malformed(this);
      this.end(CLOSE.malformed, "that is no message of this protocol");
      return;
    }
    if (this.#pending >= MOST_PENDING || this.#limit.take("messages") > 0) {
      this.end(CLOSE.tooSlow, "too many messages at once");
      return;
    }
    this.#pending++;
    void this.#queue.run(async () => {
      try {
        if (!this.#isOver) await this.#owner.handle(this, message);
      } finally {
        this.#pending--;
      }
    });
  }

  drain(): void {
    this.#blockedSince = null;
    while (this.#waiting.length > 0 && this.#blockedSince === null) this.#write(this.#waiting.shift() ?? "");
    this.flush();
  }

  close(): void {
    this.#isOver = true;
    this.#dirty.clear();
    this.#waiting.length = 0;
    this.#owner.closed(this);
  }

  /** What changed about other machines is told before, so that nobody hears of a session with a machine that it does not know. */
  send(message: ServerMessage): void {
    if (this.#isOver) return;
    this.flush();
    const text = JSON.stringify(message);
    if (this.#blockedSince === null) {
      this.#write(text);
    } else if (this.#waiting.length < MOST_WAITING) {
      this.#waiting.push(text);
    } else {
      this.end(CLOSE.tooSlow, "too much is waiting to be read");
    }
  }

  /** Already a text: the welcome, which is put together from parts. */
  sendText(text: string): void {
    if (!this.#isOver) this.#write(text);
  }

  /** The machine is to be told about that one, with the next flush. */
  mark(machine: MachineId): void {
    if (!this.#isOver) this.#dirty.add(machine);
  }

  flush(): void {
    if (this.#isOver || this.#blockedSince !== null || this.#dirty.size === 0) return;
    const texts = this.#owner.deltas(this, this.#dirty);
    this.#dirty.clear();
    for (const text of texts) this.#write(text);
  }

  /** Cuts it when the reader has taken nothing for too long, and measures its round trip; call it every few seconds. */
  check(now: number): void {
    if (this.#roundTrip.isDue(performance.now())) this.#ping();
    if (this.#blockedSince !== null && now - this.#blockedSince > MOST_BLOCKED_MS) {
      this.end(CLOSE.tooSlow, "nothing was read for too long");
    }
  }

  end(code: number, reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#socket !== null) shut(this.#socket, code, reason);
  }

  #write(text: string): void {
    const sent = this.#socket?.send(text) ?? 0;
    if (sent === -1) this.#blockedSince ??= Date.now();
    // Dropped: what the machine knows has a hole now, and a new connection starts with the whole map.
    else if (sent === 0) this.end(CLOSE.tooSlow, "a message could not be sent");
  }
}

function parseMessage(text: string): MachineMessage | null {
  if (text.length > MOST_CONTROL_BYTES) return null;
  try {
    const parsed = machineMessageSchema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data : null;
  } catch {
    return null; // no JSON: counted by the caller
  }
}
