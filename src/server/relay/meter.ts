// Counts what every relay passes on for each machine, and withholds the relays from the sessions of one that has used up its quota.
//
// Both ends of a session are charged with all of its bytes, in both directions: whoever causes them. What a direct path carries is
// nobody's business here. The bytes are those of WireGuard's packets, with the frame around them where there is one.
import type { MachineId } from "../../proto/keys.ts";
import type { Withheld } from "../../proto/control.ts";
import type { UdpRelay } from "../udp-relay/service.ts";
import { type Quota, quotaSize, spanOf } from "./quota.ts";
import type { RelaySession } from "./sessions.ts";
import type { RelayUsage } from "./usage.ts";

export interface RelayMeterDeps {
  readonly usage: RelayUsage;
  /** Null for none: everything is counted and nothing is withheld. */
  readonly quota: Quota | null;
  readonly udpRelay: Pick<UdpRelay, "withhold"> | null;
  readonly nameOf: (machine: MachineId) => string;
  /** Both ends are to be told of the session anew. */
  readonly onChange: (session: RelaySession, withheld: Withheld | null) => void;
}

export interface Metered {
  /** By the UDP relay, in both directions together. */
  readonly udpBytes: number;
  readonly withheld: Withheld | null;
}

interface Entry {
  readonly session: RelaySession;
  /** Of what each leg sent, as far as it was charged. */
  readonly charged: [number, number];
  udpBytes: number;
  withheld: Withheld | null;
}

const NOTHING: Metered = { udpBytes: 0, withheld: null };

export interface MachineUsage {
  readonly bytes: number;
  readonly period: Quota["period"];
  readonly limitBytes: number | null;
  readonly usedUp: boolean;
}

export class RelayMeter {
  readonly #deps: RelayMeterDeps;
  readonly #entries = new Map<number, Entry>();

  constructor(deps: RelayMeterDeps) {
    this.#deps = deps;
  }

  /** Before its ends are told. What the UDP relay passed on for it is to be charged by `relayed`, also after its end. */
  open(session: RelaySession, nowMs: number = Date.now()): { readonly relayed: (bytes: number) => void } {
    const entry: Entry = { session, charged: [0, 0], udpBytes: 0, withheld: null };
    this.#entries.set(session.id, entry);
    this.#set(entry, this.#verdict(session, nowMs));
    return {
      relayed: (bytes) => {
        entry.udpBytes += bytes;
        this.#charge(session, bytes);
      },
    };
  }

  /** Once the UDP relay has a port for it. */
  opened(session: RelaySession): void {
    if (this.of(session.id).withheld !== null) this.#deps.udpRelay?.withhold(session.id, true);
  }

  close(session: RelaySession): void {
    const entry = this.#entries.get(session.id);
    if (entry !== undefined) this.#read(entry);
    this.#entries.delete(session.id);
  }

  of(session: number): Metered {
    return this.#entries.get(session) ?? NOTHING;
  }

  usageOf(machine: MachineId, nowMs: number = Date.now()): MachineUsage {
    const { quota, usage } = this.#deps;
    const period = quota?.period ?? "month";
    const bytes = usage.of(machine, period, nowMs);
    return {
      bytes,
      period,
      limitBytes: quota?.limitBytes ?? null,
      usedUp: quota !== null && bytes >= quota.limitBytes,
    };
  }

  forget(machine: MachineId): void {
    this.#deps.usage.forget(machine);
  }

  /** Charges what the WebSocket relay passed on, and withholds or gives back; call it every few seconds. */
  tend(nowMs: number = Date.now()): void {
    for (const entry of this.#entries.values()) this.#read(entry, nowMs);
    if (this.#deps.quota === null) return;
    for (const entry of this.#entries.values()) {
      const { session } = entry;
      const verdict = this.#verdict(session, nowMs);
      if (verdict?.text === entry.withheld?.text && verdict?.untilMs === entry.withheld?.untilMs) continue;
      this.#set(entry, verdict);
      this.#deps.udpRelay?.withhold(session.id, verdict !== null);
      this.#deps.onChange(session, verdict);
    }
  }

  #set(entry: Entry, withheld: Withheld | null): void {
    entry.withheld = withheld;
    for (const leg of entry.session.legs) leg.isWithheld = withheld !== null;
  }

  #read({ session, charged }: Entry, nowMs?: number): void {
    for (const end of [0, 1] as const) {
      const bytes = session.legs[end].bytes - charged[end];
      charged[end] += bytes;
      this.#charge(session, bytes, nowMs);
    }
  }

  #charge(session: RelaySession, bytes: number, nowMs?: number): void {
    for (const machine of session.ends) this.#deps.usage.add(machine, bytes, nowMs);
  }

  #verdict(session: RelaySession, nowMs: number): Withheld | null {
    const { quota, nameOf } = this.#deps;
    if (quota === null) return null;
    const over = session.ends.filter((machine) => this.usageOf(machine, nowMs).usedUp);
    if (over.length === 0) return null;
    return withheldBy(quota, over.map(nameOf), nowMs);
  }
}

export function withheldBy(quota: Quota, names: readonly string[], nowMs: number): Withheld {
  const who = names.map((name) => `"${name}"`).join(" and ");
  const [verb, span] = [names.length > 1 ? "have" : "has", quota.period === "day" ? "today" : "this month"];
  return {
    code: "relay-quota",
    text: `${who} ${verb} used up the ${quotaSize(quota)} that a machine may have relayed ${span}`,
    untilMs: spanOf(quota.period, nowMs).endMs,
  };
}
