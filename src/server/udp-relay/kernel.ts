// Keeps the kernel's relay tables as the sessions want them: changes that come together go in together, and what went through is watched.
import { errorText } from "../../base/errors.ts";
import { type Family, familyOf } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type LeaseCount, leaseKey, type RelayLink, type RelayTable } from "../../net/relay-table.ts";
import { type Link, sameLink } from "./state.ts";

export interface KernelRelayDeps {
  readonly table: Pick<RelayTable, "change" | "read" | "reset">;
  /** Those that the table has a half for. */
  readonly families: ReadonlySet<Family>;
  /** Ports that an earlier process left under the gate. */
  readonly reserved: ReadonlySet<number>;
  readonly log: Logger;
}

interface Count {
  readonly packets: number;
  readonly bytes: number;
}

const NOTHING: Count = { packets: 0, bytes: 0 };
/** So many packets that came in and none that went out mean that something on this machine swallows them. */
const SWALLOWED = 16;

/** Once it is off it stays off: the process forwards then. */
export class KernelRelay {
  readonly #deps: KernelRelayDeps;
  readonly #controller = new AbortController();
  readonly #wanted = new Map<number, readonly Link[]>();
  readonly #loaded = new Map<number, readonly Link[]>();
  readonly #dirty = new Set<number>();
  readonly #renewals = new Map<number, readonly Link[]>();
  /** What of a lease is counted already. */
  readonly #seen = new Map<string, Count>();
  /** Packets that came in since the last one went out. */
  #entered = 0;
  /** Null before the first look: the table may be an earlier process'. */
  #passed: number | null = null;
  #pump: Promise<void> | null = null;
  #isOn = true;
  bytes = 0;

  constructor(deps: KernelRelayDeps) {
    this.#deps = deps;
  }

  get isOn(): boolean {
    return this.#isOn;
  }

  get families(): ReadonlySet<Family> {
    return this.#deps.families;
  }

  isReserved(port: number): boolean {
    return this.#isOn && this.#deps.reserved.has(port);
  }

  /** Closed to everything but STUN, and then the links. Resolves when it is so; or when the kernel is off, and the process does it. */
  set(port: number, links: readonly Link[]): Promise<void> {
    this.#wanted.set(port, links);
    return this.#touch(port);
  }

  close(port: number): Promise<void> {
    this.#wanted.delete(port);
    this.#renewals.delete(port);
    return this.#touch(port);
  }

  /** With the next `tend`. */
  renew(port: number, links: readonly Link[]): void {
    this.#renewals.set(port, links);
  }

  /** Counts, looks whether packets get through, and renews what is due; call it every few seconds. */
  async tend(): Promise<void> {
    await this.#pump;
    if (!this.#isOn || this.#loaded.size === 0) return;
    await this.#guarded(async (signal) => {
      const { leases, passed } = await this.#deps.table.read(signal);
      const entered = this.#count(leases);
      this.#entered = passed === this.#passed ? this.#entered + entered : 0;
      this.#passed = passed;
      if (this.#entered >= SWALLOWED) {
        this.#off("packets come in and do not leave: another table, or the routing, swallows them");
        return;
      }
      const renew: RelayLink[] = [];
      for (const [port, links] of this.#renewals) {
        const loaded = this.#loaded.get(port) ?? [];
        for (const link of links) if (loaded.some((one) => sameLink(one, link))) renew.push({ port, ends: link.ends });
      }
      this.#renewals.clear();
      for (const key of renew.flatMap(keysOf)) this.#seen.delete(key);
      await this.#deps.table.change({ keep: [...this.#loaded.keys()], renew }, signal);
    });
  }

  async dispose(): Promise<void> {
    this.#isOn = false;
    this.#controller.abort(new Error("the relay is stopping"));
    await this.#pump;
  }

  async #touch(port: number): Promise<void> {
    if (!this.#isOn) return;
    this.#dirty.add(port);
    // What is asked while one change is under way goes in with the next.
    this.#pump ??= this.#drain().finally(() => {
      this.#pump = null;
    });
    await this.#pump;
  }

  async #drain(): Promise<void> {
    await Promise.resolve(); // the changes of one turn together
    while (this.#isOn && this.#dirty.size > 0) {
      const ports = [...this.#dirty];
      this.#dirty.clear();
      const [open, close]: [number[], number[]] = [[], []];
      const [put, remove]: [RelayLink[], RelayLink[]] = [[], []];
      for (const port of ports) {
        const [wanted, loaded] = [this.#wanted.get(port), this.#loaded.get(port)];
        if (wanted === undefined && loaded !== undefined) close.push(port);
        if (wanted !== undefined && loaded === undefined) open.push(port);
        put.push(...without(wanted ?? [], loaded ?? []).map(({ ends }) => ({ port, ends })));
        remove.push(...without(loaded ?? [], wanted ?? []).map(({ ends }) => ({ port, ends })));
        if (wanted === undefined) this.#loaded.delete(port);
        else this.#loaded.set(port, wanted);
      }
      for (const key of [...put, ...remove].flatMap(keysOf)) this.#seen.delete(key);
      await this.#guarded((signal) => this.#deps.table.change({ open, close, put, remove }, signal));
    }
  }

  async #guarded(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { signal } = this.#controller;
    try {
      await work(signal);
    } catch (thrown) {
      if (!signal.aborted) this.#off(errorText(thrown));
    }
    if (!this.#isOn && !signal.aborted) {
      // Without the gate, everything reaches the sockets again.
      await this.#deps.table.reset(signal).catch((thrown: unknown) => {
        this.#deps.log.error({ error: errorText(thrown) }, "cannot take the kernel relay's tables away");
      });
    }
  }

  #off(reason: string): void {
    this.#isOn = false;
    this.#deps.log.warn({ reason }, "the kernel does not relay any more; this process does");
  }

  /** The packets that are new, of links that the kernel turns round. */
  #count(leases: readonly LeaseCount[]): number {
    const turnedRound = new Set([...this.#links()].filter((link) => this.#isInKernel(link)).flatMap(keysOf));
    let entered = 0;
    for (const { key, packets, bytes } of leases) {
      const known = this.#seen.get(key) ?? NOTHING;
      // One that was made anew in between counts from zero.
      const before = bytes >= known.bytes && packets >= known.packets ? known : NOTHING;
      this.bytes += bytes - before.bytes;
      if (turnedRound.has(key)) entered += packets - before.packets;
      this.#seen.set(key, { packets, bytes });
    }
    return entered;
  }

  *#links(): Iterable<RelayLink> {
    for (const [port, links] of this.#loaded) for (const { ends } of links) yield { port, ends };
  }

  #isInKernel({ ends }: Link): boolean {
    const [a, b] = [familyOf(ends[0].address), familyOf(ends[1].address)];
    return a === b && this.#deps.families.has(a);
  }
}

function without(links: readonly Link[], others: readonly Link[]): readonly Link[] {
  return links.filter((link) => !others.some((other) => sameLink(other, link)));
}

function keysOf({ port, ends }: RelayLink): string[] {
  return ends.map((end) => leaseKey(port, end));
}
