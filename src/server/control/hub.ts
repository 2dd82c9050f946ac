// All control connections: a full map to whoever connects, and then each change, as a delta, to those who may see the machine.
import type { IpAddress } from "../../base/ip.ts";
import { CLOSE, type MachineMessage, type Peer, type Session, type Welcome } from "../../proto/control.ts";
import type { MachineId } from "../../proto/keys.ts";
import type { Directory, Machine } from "../directory.ts";
import type { Policy } from "../policy.ts";
import type { Presence } from "../presence.ts";
import { ControlConnection, type ControlOwner } from "./connection.ts";

/** Changes that come together leave together; short against the 200 ms that a change may take. */
const COALESCE_MS = 20;
/** A delta is at most about this long; the rest goes into the next. */
const DELTA_CHARACTERS = 60_000;

/** The parts of a welcome that are the same for everybody. */
export type WelcomeCommons = Pick<Welcome, "version" | "network" | "range4" | "range6" | "servers" | "relays" | "stun">;

export interface HubDeps {
  readonly directory: Directory;
  readonly presence: Presence;
  readonly policy: Policy;
  readonly epoch: number;
  readonly commons: () => WelcomeCommons;
  readonly sessionsOf: (machine: MachineId) => Session[];
  /** By which the machine's STUN requests are known. */
  readonly stunCredentialOf?: (machine: MachineId) => Welcome["stunCredential"];
  readonly onMessage: (machine: MachineId, message: MachineMessage, connection: ControlConnection) => Promise<void>;
  /** A machine came or went; the change was told to the others already. */
  readonly onPresence: (machine: MachineId, online: boolean) => void;
}

export class ControlHub implements ControlOwner {
  readonly #deps: HubDeps;
  readonly #connections = new Map<MachineId, ControlConnection>();
  readonly #dirty = new Set<ControlConnection>();
  /** Each machine as its peers are shown it, made once per change however many watch. */
  readonly #texts = new Map<MachineId, string>();
  #timer: ReturnType<typeof setTimeout> | null = null;
  #seq = 0;
  malformedCount = 0;

  constructor(deps: HubDeps) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#connections.size;
  }

  accept(machine: MachineId, address: IpAddress | null): ControlConnection {
    return new ControlConnection(this, machine, address);
  }

  isOnline(machine: MachineId): boolean {
    return this.#connections.has(machine);
  }

  get(machine: MachineId): ControlConnection | null {
    return this.#connections.get(machine) ?? null;
  }

  opened(connection: ControlConnection): void {
    const machine = this.#deps.directory.get(connection.machine);
    if (machine === null) {
      connection.end(CLOSE.revoked, "this machine is not enrolled any more");
      return;
    }
    const before = this.#connections.get(machine.id);
    this.#connections.set(machine.id, connection);
    before?.end(CLOSE.replaced, "a newer connection took over");
    const changed = this.#deps.presence.arrived(machine.id, connection.address);
    connection.sendText(this.#welcome(machine, connection));
    if (changed) this.changed(machine);
    this.#deps.onPresence(machine.id, true);
  }

  handle(connection: ControlConnection, message: MachineMessage): Promise<void> {
    return this.#deps.onMessage(connection.machine, message, connection);
  }

  closed(connection: ControlConnection): void {
    this.#dirty.delete(connection);
    if (this.#connections.get(connection.machine) !== connection) return;
    this.#connections.delete(connection.machine);
    const machine = this.#deps.directory.get(connection.machine);
    if (this.#deps.presence.left(connection.machine) && machine !== null) this.changed(machine);
    this.#deps.onPresence(connection.machine, false);
  }

  malformed(): void {
    this.malformedCount++;
  }

  /** Something that others are shown of the machine changed, or the machine has gone. */
  changed(machine: Machine): void {
    this.#texts.delete(machine.id);
    for (const [id, connection] of this.#connections) {
      const other = this.#deps.directory.get(id);
      if (other === null || !this.#deps.policy.mayConnect(other, machine)) continue;
      connection.mark(machine.id);
      this.#dirty.add(connection);
    }
    if (this.#dirty.size > 0) this.#timer ??= setTimeout(() => this.flush(), COALESCE_MS);
  }

  /** Sends what is due now; the timer calls it. */
  flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const due = [...this.#dirty];
    this.#dirty.clear();
    for (const connection of due) connection.flush();
  }

  deltas(connection: ControlConnection, dirty: ReadonlySet<MachineId>): string[] {
    const viewer = this.#deps.directory.get(connection.machine);
    if (viewer === null) return [];
    const texts: string[] = [];
    let upsert: string[] = [];
    let remove: MachineId[] = [];
    let length = 0;
    const close = (): void => {
      if (upsert.length === 0 && remove.length === 0) return;
      texts.push(
        `{"type":"delta","at":${this.#position()},"upsert":[${upsert.join()}],"remove":${JSON.stringify(remove)}}`,
      );
      upsert = [];
      remove = [];
      length = 0;
    };
    for (const id of dirty) {
      const text = this.#textFor(viewer, id);
      if (text === null) remove.push(id);
      else upsert.push(text);
      length += text?.length ?? id.length;
      if (length > DELTA_CHARACTERS) close();
    }
    close();
    return texts;
  }

  /** Ends the machine's connection; it counts as gone from now on. */
  cut(machine: MachineId, code: number, reason: string): void {
    const connection = this.#connections.get(machine);
    if (connection === undefined) return;
    connection.end(code, reason);
    this.closed(connection);
  }

  /** Cuts readers that are stuck. */
  sweep(now: number): void {
    for (const connection of this.#connections.values()) connection.check(now);
  }

  endAll(code: number, reason: string): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    for (const connection of this.#connections.values()) connection.end(code, reason);
  }

  #position(): string {
    return `{"epoch":${this.#deps.epoch},"seq":${++this.#seq}}`;
  }

  #textFor(viewer: Machine, id: MachineId): string | null {
    const machine = this.#deps.directory.get(id);
    if (machine === null || machine.record === null || !this.#deps.policy.mayConnect(viewer, machine)) return null;
    let text = this.#texts.get(id);
    if (text === undefined) {
      const presence = this.#deps.presence.of(id);
      const { bytes, signatures } = machine.record.signed;
      const peer: Peer = {
        id,
        tags: [...machine.tags],
        online: presence.online,
        exit: presence.exit,
        publicAddress: presence.address,
        record: { bytes, signatures: signatures.map(({ key, signature }) => ({ key, signature })) },
      };
      text = JSON.stringify(peer);
      this.#texts.set(id, text);
    }
    return text;
  }

  #welcome(machine: Machine, connection: ControlConnection): string {
    const { id, name, role, tags, ipv4, ipv6 } = machine;
    const peers: string[] = [];
    for (const other of this.#deps.directory.all()) {
      const text = this.#textFor(machine, other.id);
      if (text !== null) peers.push(text);
    }
    const stunCredential = this.#deps.stunCredentialOf?.(id);
    const head: Omit<Welcome, "at" | "peers"> = {
      type: "welcome",
      ...this.#deps.commons(),
      ...(stunCredential === undefined ? {} : { stunCredential }),
      self: { id, name, role, tags: [...tags], ipv4, ipv6 },
      recordSerial: String(machine.record?.opened.serial ?? 0n),
      observedAddress: connection.address,
      sessions: this.#deps.sessionsOf(id),
    };
    return `${JSON.stringify(head).slice(0, -1)},"at":${this.#position()},"peers":[${peers.join()}]}`;
  }
}
