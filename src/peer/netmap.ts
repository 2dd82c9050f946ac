// The map of the network as this machine accepts it: verified peers by id, refusals beside them, never a step back.
import type { MachineName } from "../base/hostname.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { IpAddress } from "../base/ip.ts";
import type { ExitState, Peer, Position, ServerMessage, Welcome } from "../proto/control.ts";
import type { MachineId } from "../proto/keys.ts";
import { openRecord } from "../proto/record.ts";
import type { TrustContext, TrustedMachine } from "./trust.ts";
import type { TrustStore } from "./trust-store.ts";

export interface KnownPeer {
  readonly id: MachineId;
  readonly name: MachineName;
  readonly machine: TrustedMachine;
  readonly tags: readonly string[];
  readonly online: boolean;
  readonly exit: ExitState | null;
  readonly publicAddress: IpAddress | null;
}

export interface Refusal {
  readonly code: string;
  readonly text: string;
  readonly remedy: string | null;
}

export class MapRefused extends HiggsError {
  override readonly name = "MapRefused";
}

type Delta = Extract<ServerMessage, { type: "delta" }>;

export class Netmap {
  readonly #trust: TrustStore;
  readonly #log: Logger;
  readonly #peers = new Map<MachineId, KnownPeer>();
  readonly #raw = new Map<MachineId, Peer>();
  readonly #refusals = new Map<string, Refusal>();
  #position: Position;

  constructor(deps: { readonly trust: TrustStore; readonly log: Logger }, position: Position) {
    this.#trust = deps.trust;
    this.#log = deps.log;
    this.#position = position;
  }

  get position(): Position {
    return this.#position;
  }

  peers(): readonly KnownPeer[] {
    return [...this.#peers.values()];
  }

  get(id: MachineId): KnownPeer | undefined {
    return this.#peers.get(id);
  }

  named(name: string): KnownPeer | undefined {
    return this.peers().find((peer) => peer.name === name);
  }

  /** What the server said and was not believed, for `status`. */
  refusals(): readonly Refusal[] {
    return [...this.#refusals.values()];
  }

  /** The whole map. Throws MapRefused `map-rollback` for one of an earlier position; then the last good map stays. */
  async welcome(welcome: Welcome, context: TrustContext): Promise<void> {
    if (isBefore(welcome.at, this.#position)) {
      const refusal = {
        code: "map-rollback",
        text: "Refused the server's map: it is older than one seen before.",
        remedy: "The server may have been put back from an old copy; restart it.",
      };
      this.#refusals.set("map", refusal);
      throw new MapRefused(refusal.text, { code: refusal.code, remedy: refusal.remedy });
    }
    this.#position = welcome.at;
    this.#refusals.clear();
    const named = new Set(welcome.peers.map((peer) => peer.id));
    for (const id of [...this.#peers.keys()]) if (!named.has(id)) this.#drop(id);
    for (const peer of welcome.peers) this.#take(peer, context);
    await this.#trust.save();
  }

  /** What changed. An older or repeated delta is dropped. */
  async delta(delta: Delta, context: TrustContext): Promise<void> {
    if (delta.at.epoch !== this.#position.epoch || delta.at.seq <= this.#position.seq) {
      this.#log.warn({ at: delta.at, position: this.#position }, "stale delta dropped");
      return;
    }
    this.#position = delta.at;
    for (const id of delta.remove) this.#drop(id);
    for (const peer of delta.upsert) this.#take(peer, context);
    await this.#trust.save();
  }

  /** Judges everything anew, after a machine was forgotten. */
  async again(context: TrustContext): Promise<void> {
    for (const peer of [...this.#raw.values()]) this.#take(peer, context);
    await this.#trust.save();
  }

  #drop(id: MachineId): void {
    this.#peers.delete(id);
    this.#raw.delete(id);
    this.#refusals.delete(id);
  }

  #take(peer: Peer, context: TrustContext): void {
    this.#raw.set(peer.id, peer);
    try {
      const judgement = this.#trust.admit(openRecord(peer.record), context);
      if (judgement.kind === "refused") {
        this.#refuse(peer.id, judgement);
        return;
      }
      this.#refusals.delete(peer.id);
      const { machine } = judgement;
      this.#peers.set(peer.id, {
        id: peer.id,
        name: machine.name,
        machine,
        tags: peer.tags,
        online: peer.online,
        exit: peer.exit,
        publicAddress: peer.publicAddress,
      });
    } catch (thrown) {
      // One bad record costs one machine, never the map.
      const code = thrown instanceof HiggsError ? thrown.code : "record-malformed";
      this.#refuse(peer.id, { code, text: errorText(thrown), remedy: null });
    }
  }

  /** The last good record of the machine stays in use; what the server says of it now is not. */
  #refuse(id: MachineId, refusal: Refusal): void {
    if (this.#refusals.get(id)?.code !== refusal.code) this.#log.warn({ code: refusal.code }, refusal.text);
    this.#refusals.set(id, { code: refusal.code, text: refusal.text, remedy: refusal.remedy });
  }
}

function isBefore(a: Position, b: Position): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.seq < b.seq);
}
