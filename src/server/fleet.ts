// The machines' life on the server: enrolled, introduced, connected, revoked; each change goes to the database, then to memory, then to those who may see it.
import { and, eq, isNull, ne } from "drizzle-orm";
import { HiggsError } from "../base/errors.ts";
import { isMachineName, type MachineName } from "../base/hostname.ts";
import type { IpAddress } from "../base/ip.ts";
import { type Logger, short } from "../base/log.ts";
import { type RegisterRequest, tagSchema } from "../proto/api.ts";
import { CLOSE, type MachineMessage, type Session, type Withheld } from "../proto/control.ts";
import type { MachineId, SpkiHash } from "../proto/keys.ts";
import type { SignedRecord } from "../proto/record.ts";
import type { Role } from "../proto/role.ts";
import { recordAudit } from "./audit.ts";
import type { Auth } from "./auth.ts";
import type { ControlConnection } from "./control/connection.ts";
import { ControlHub, type WelcomeCommons } from "./control/hub.ts";
import type { Database } from "./db/open.ts";
import { machines, records } from "./db/schema.ts";
import type { Directory, Machine } from "./directory.ts";
import { enrol } from "./enrol.ts";
import { LastSeen } from "./last-seen.ts";
import type { Network } from "./network.ts";
import type { Policy } from "./policy.ts";
import { Presence } from "./presence.ts";
import { checkRecord, RecordRefused } from "./record-check.ts";
import { RelayMeter } from "./relay/meter.ts";
import type { Quota } from "./relay/quota.ts";
import { Relay } from "./relay/relay.ts";
import { type RelaySession, Sessions } from "./relay/sessions.ts";
import type { RelayUsage } from "./relay/usage.ts";
import { Rendezvous } from "./rendezvous.ts";
import { newSessionKeys, probeFor, type SessionKeys } from "./session-keys.ts";
import { Sightings } from "./sightings.ts";
import type { StunUsers } from "./stun.ts";
import type { UdpRelay } from "./udp-relay/service.ts";

export class FleetError extends HiggsError {
  override readonly name = "FleetError";
}

/** As many as an invite may carry; every peer is shown them. */
const MOST_TAGS = 16;

export interface FleetDeps {
  /** A machine has gone for good: whatever else is kept of it may go too. */
  readonly onRemoved: (machine: MachineId) => void;
  readonly database: Database;
  readonly directory: Directory;
  readonly network: Network;
  readonly spki: SpkiHash;
  readonly auth: Auth;
  readonly policy: Policy;
  readonly commons: () => WelcomeCommons;
  /** Null where sessions have no relay but the WebSocket. */
  readonly udpRelay: UdpRelay | null;
  readonly relayUsage: RelayUsage;
  /** How much each machine may have relayed; null for as much as it likes. */
  readonly quota: Quota | null;
  readonly log: Logger;
}

/** What a session's ends are told, to find a better path than the relay. */
interface SessionPaths {
  readonly keys: SessionKeys;
  readonly relayEndpoints: readonly string[];
}

export class Fleet {
  readonly directory: Directory;
  readonly policy: Policy;
  readonly presence = new Presence();
  readonly relay = new Relay();
  readonly sessions = new Sessions(this.relay.ports);
  readonly hub: ControlHub;
  readonly sightings = new Sightings();
  readonly meter: RelayMeter;
  readonly lastSeen: LastSeen;
  readonly #rendezvous: Rendezvous;
  readonly #paths = new Map<number, SessionPaths>();
  readonly #deps: FleetDeps;

  constructor(deps: FleetDeps) {
    this.#deps = deps;
    this.directory = deps.directory;
    this.policy = deps.policy;
    this.lastSeen = new LastSeen({ database: deps.database, directory: deps.directory, presence: this.presence });
    this.hub = new ControlHub({
      directory: deps.directory,
      presence: this.presence,
      policy: deps.policy,
      epoch: deps.network.epoch,
      commons: deps.commons,
      sessionsOf: (machine) => this.sessions.of(machine).map((session) => this.#sessionFor(machine, session)),
      stunCredentialOf: (machine) => this.sightings.credential(machine),
      onMessage: (machine, message, connection) => this.#onMessage(machine, message, connection),
      onPresence: (machine, online) => {
        this.lastSeen.note(machine);
        deps.log.info({ machine: this.directory.get(machine)?.name, online }, "machine presence changed");
      },
    });
    this.meter = new RelayMeter({
      usage: deps.relayUsage,
      quota: deps.quota,
      udpRelay: deps.udpRelay,
      nameOf: (machine) => this.directory.get(machine)?.name ?? machine,
      onChange: (session, withheld) => this.#tellAgain(session, withheld),
    });
    this.#rendezvous = new Rendezvous({
      channelOf: (machine) => this.hub.get(machine),
      wasSeen: (machine, endpoint) => this.sightings.wasSeen(machine, endpoint),
    });
  }

  /** For the STUN responder: only machines of this network are known to it. */
  get stunUsers(): StunUsers {
    return {
      keyOf: (user) => this.sightings.keyOf(user),
      note: (user, endpoint) => {
        if (this.directory.get(user as MachineId) !== null) this.sightings.note(user, endpoint);
      },
    };
  }

  /** True when the two may see and reach each other. */
  mayReach(a: Machine, b: Machine): boolean {
    return this.policy.mayConnect(a, b);
  }

  async register(request: RegisterRequest, role: Role): Promise<Machine> {
    const { database, network, spki } = this.#deps;
    const { machine, isNew } = await enrol(database, request, { role, network, spki });
    if (isNew) {
      this.directory.set(machine);
      this.#deps.log.info({ machine: machine.name, role, id: machine.id }, "machine enrolled");
    }
    return this.directory.get(machine.id) ?? machine;
  }

  /** The pair's session; both ends are told of a new one. Throws FleetError `peer-unknown`. */
  join(machine: Machine, peer: MachineId): Session {
    const other = this.directory.get(peer);
    // A machine that may not be seen is none, as far as the one who asks can tell.
    if (other === null || !this.mayReach(machine, other)) {
      throw new FleetError("Cannot connect: there is no such machine, or policy does not allow it.", {
        code: "peer-unknown",
      });
    }
    const { session, isNew } = this.sessions.join(machine.id, peer);
    if (isNew) {
      const keys = newSessionKeys();
      const { relayed } = this.meter.open(session);
      const relayEndpoints = this.#deps.udpRelay?.open(session.id, keys.relay, { onRelayed: relayed }) ?? [];
      this.meter.opened(session);
      this.#paths.set(session.id, { keys, relayEndpoints });
      this.#deps.log.debug({ machine: machine.name, peer: other.name, session: session.id }, "session granted");
      this.hub.get(peer)?.send({ type: "session", session: this.#sessionFor(peer, session) });
    }
    return this.#sessionFor(machine.id, session);
  }

  /** Whether the relays carry a session has changed. */
  #tellAgain(session: RelaySession, withheld: Withheld | null): void {
    for (const machine of session.ends) {
      this.hub.get(machine)?.send({ type: "session", session: this.#sessionFor(machine, session) });
    }
    const fields = { session: session.id, reason: withheld?.text };
    this.#deps.log.info(
      fields,
      withheld === null ? "relays given back to a session" : "relays withheld from a session",
    );
  }

  endSession(session: RelaySession, reason: string): void {
    this.meter.close(session);
    this.sessions.end(session);
    this.#deps.udpRelay?.close(session.id);
    this.#rendezvous.end(session.id);
    this.#paths.delete(session.id);
    for (const machine of session.ends) this.hub.get(machine)?.send({ type: "session-end", id: session.id, reason });
  }

  /**
   * Takes a machine out of the network, at once: its tokens, connections and sessions end, and its peers are told.
   * Neither its name nor its identity nor its addresses become free: others hold on to them.
   */
  async remove(machine: Machine, event: "machine-revoked" | "machine-left"): Promise<void> {
    const revokedAt = Date.now();
    const changed = await this.#deps.database.write(async (queries) => {
      const rows = await queries
        .update(machines)
        .set({ revokedAt })
        .where(and(eq(machines.id, machine.id), isNull(machines.revokedAt)))
        .returning({ id: machines.id });
      if (rows.length > 0) await recordAudit(queries, { event, machine: machine.id, detail: { name: machine.name } });
      return rows.length > 0;
    });
    if (!changed || this.directory.get(machine.id) === null) return;
    this.#deps.auth.revoke(machine.id);
    this.directory.remove(machine.id);
    const reason = event === "machine-left" ? "this machine left the network" : "this machine was revoked";
    this.relay.cut(machine.id, CLOSE.revoked, reason);
    this.hub.cut(machine.id, CLOSE.revoked, reason);
    for (const session of this.sessions.of(machine.id))
      this.endSession(session, "the other machine is not in the network any more");
    this.presence.forget(machine.id);
    this.sightings.forget(machine.id);
    this.#deps.onRemoved(machine.id);
    this.hub.changed(machine);
    this.#deps.log.info({ machine: machine.name, event }, "machine removed");
  }

  /** The machine has to sign a record with the new name: it is asked to by having to connect anew. */
  async rename(machine: Machine, name: string): Promise<Machine> {
    if (!isMachineName(name)) {
      throw new FleetError(`Cannot name a machine "${name}".`, {
        code: "name-invalid",
        remedy: "Use letters a to z, digits and hyphens, up to 63.",
      });
    }
    await this.#deps.database.write(async (queries) => {
      const taken = await queries
        .select({ id: machines.id })
        .from(machines)
        .where(and(eq(machines.name, name), ne(machines.id, machine.id)))
        .get();
      if (taken !== undefined) {
        throw new FleetError(`Cannot name a machine "${name}": there is one.`, {
          code: "name-taken",
          remedy: "Choose another name.",
        });
      }
      await queries.update(machines).set({ name }).where(eq(machines.id, machine.id));
      await recordAudit(queries, {
        event: "machine-renamed",
        machine: machine.id,
        detail: { from: machine.name, to: name },
      });
    });
    return this.#changedSelf(machine, { name });
  }

  async tag(machine: Machine, tags: readonly string[]): Promise<Machine> {
    const wanted = [...new Set(tags)].sort();
    if (wanted.length > MOST_TAGS) {
      throw new FleetError(`Cannot give a machine ${wanted.length} tags: it may have ${MOST_TAGS}.`, {
        code: "tag-invalid",
        remedy: `Name up to ${MOST_TAGS} tags.`,
      });
    }
    const bad = wanted.find((tag) => !tagSchema.safeParse(tag).success);
    if (bad !== undefined) {
      throw new FleetError(`Cannot give a machine the tag "${bad}".`, {
        code: "tag-invalid",
        remedy: "Use letters a to z, digits and hyphens, up to 32.",
      });
    }
    await this.#deps.database.write(async (queries) => {
      await queries.update(machines).set({ tags: wanted }).where(eq(machines.id, machine.id));
      await recordAudit(queries, { event: "machine-tagged", machine: machine.id, detail: { tags: wanted } });
    });
    return this.#changedSelf(machine, { tags: wanted });
  }

  #changedSelf(machine: Machine, change: { name?: MachineName; tags?: readonly string[] }): Machine {
    this.directory.update(machine.id, change);
    const changed = this.directory.get(machine.id) ?? machine;
    this.hub.cut(machine.id, CLOSE.changed, "what this machine is called changed; connect anew");
    this.hub.changed(changed);
    return changed;
  }

  /** Ends sessions that nobody uses any more, and readers that are stuck. */
  sweep(now: number = Date.now()): void {
    this.hub.sweep(now);
    for (const session of this.sessions.abandoned((machine) => this.hub.isOnline(machine), now)) {
      this.endSession(session, "one of the machines was away for too long");
    }
  }

  /** `version`: what the machine runs now; null keeps what it said before. */
  accept(machine: Machine, address: IpAddress | null, version: string | null): ControlConnection {
    // Goes into the database with the sign of life that this is.
    if (version !== null && version !== machine.version) this.directory.update(machine.id, { version });
    return this.hub.accept(machine.id, address);
  }

  async #onMessage(id: MachineId, message: MachineMessage, connection: ControlConnection): Promise<void> {
    const machine = this.directory.get(id);
    if (machine === null) return; // revoked while the message waited; its connection is closing
    try {
      switch (message.type) {
        case "connect":
          connection.send({ type: "connected", ref: message.ref, session: this.join(machine, message.peer) });
          return;
        case "disconnect": {
          const session = this.sessions.get(message.id);
          if (session?.ends.includes(id) === true) this.endSession(session, "one of the machines ended it");
          return;
        }
        case "candidates": {
          const session = this.sessions.get(message.session);
          if (session !== null) this.#rendezvous.offer(session, id, message);
          return;
        }
        case "punch-request": {
          const session = this.sessions.get(message.session);
          if (session !== null) this.#rendezvous.punchRequest(session, id);
          return;
        }
        case "record":
          await this.#acceptRecord(machine, message.record);
          return;
        case "presence":
          // A client offers no exit, whatever it says.
          if (this.presence.setExit(id, machine.role === "node" ? message.exit : null)) this.hub.changed(machine);
          return;
      }
    } catch (thrown) {
      const failure = thrown instanceof HiggsError ? thrown : null;
      const ref = message.type === "connect" ? message.ref : -1;
      this.#deps.log.warn(
        {
          machine: machine.name,
          message: message.type,
          code: failure?.code,
          error: failure === null ? thrown : failure.message,
        },
        "message of a machine refused",
      );
      connection.send({
        type: "refused",
        ref,
        code: failure?.code ?? "internal",
        detail: (failure?.message ?? "Cannot do this: the server failed.").slice(0, 500),
      });
    }
  }

  async #acceptRecord(machine: Machine, signed: SignedRecord): Promise<void> {
    const opened = checkRecord(machine, signed, { network: this.#deps.network.identity, nowMs: Date.now() });
    if (opened === null) return;
    await this.#deps.database.write(async (queries) => {
      if (opened.wireGuard !== machine.wireGuard) {
        const twin = await queries
          .select({ id: machines.id })
          .from(machines)
          .where(and(eq(machines.wireGuard, opened.wireGuard), isNull(machines.revokedAt), ne(machines.id, machine.id)))
          .get();
        if (twin !== undefined) {
          throw new RecordRefused("Cannot accept the record: another machine has the same WireGuard key.", {
            code: "key-taken",
          });
        }
        await queries.update(machines).set({ wireGuard: opened.wireGuard }).where(eq(machines.id, machine.id));
      }
      const row = {
        serial: opened.serial.toString(),
        bytes: signed.bytes,
        signatures: signed.signatures,
        receivedAt: Date.now(),
      };
      await queries
        .insert(records)
        .values({ machineId: machine.id, ...row })
        .onConflictDoUpdate({ target: records.machineId, set: row });
    });
    if (!this.directory.update(machine.id, { record: { signed, opened }, wireGuard: opened.wireGuard })) return;
    const updated = this.directory.get(machine.id);
    if (updated !== null) this.hub.changed(updated);
    this.#deps.log.debug(
      { machine: machine.name, serial: String(opened.serial), wireGuard: short(opened.wireGuard) },
      "record accepted",
    );
  }

  #sessionFor(machine: MachineId, session: RelaySession): Session {
    const [initiator, responder] = session.ends;
    const isInitiator = initiator === machine;
    const paths = this.#paths.get(session.id);
    const { withheld } = this.meter.of(session.id);
    return {
      id: session.id,
      peer: isInitiator ? responder : initiator,
      kind: session.kind,
      initiator: isInitiator,
      ...(paths === undefined ? {} : { probe: probeFor(isInitiator ? 0 : 1, paths.keys, paths.relayEndpoints) }),
      ...(withheld === null ? {} : { withheld }),
    };
  }
}
