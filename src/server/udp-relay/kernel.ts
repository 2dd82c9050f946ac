// Keeps the kernel's relay tables as the sessions want them: changes that come together go in together, and what went through is watched.
import { SerialQueue } from "../../base/async.ts";
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
/** Far less than the kernel keeps a port by itself. */
const KEEP_MS = 9_000;
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
  /** By port: who is told what the kernel passed on. */
  readonly #meters = new Map<number, (bytes: number) => void>();
  /** What of a lease is counted already. */
  readonly #seen = new Map<string, Count>();
  /** Packets that came in since the last one went out. */
  #entered = 0;
  /** Null before the first look: the table may be an earlier process'. */
  #passed: number | null = null;
  /** When ports were last kept under the gate for longer. */
  #keptAt = Number.NEGATIVE_INFINITY;
  #pump: Promise<void> | null = null;
  readonly #queue = new SerialQueue();
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

  /** From here on until the port is closed, and what was passed on by then is told. */
  meter(port: number, onRelayed: (bytes: number) => void): void {
    this.#meters.set(port, onRelayed);
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
    await this.#guarded(async (signal) => {
      if (this.#loaded.size === 0) return;
      await this.#look(signal);
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
      const now = performance.now();
      if (renew.length === 0 && now - this.#keptAt < KEEP_MS) return;
      this.#keptAt = now;
      for (const key of renew.flatMap(keysOf)) this.#seen.delete(key);
      await this.#deps.table.change({ keep: [...this.#loaded.keys()], renew }, signal);
    });
  }

  async dispose(): Promise<void> {
    this.#isOn = false;
    this.#controller.abort(new Error("the relay is stopping"));
    await this.#pump;
    await this.#queue.idle();
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
    while (this.#isOn && this.#dirty.size > 0) await this.#guarded((signal) => this.#changeDirty(signal));
  }

  async #changeDirty(signal: AbortSignal): Promise<void> {
    // What a lease counted goes with it.
    if ([...this.#dirty].some((port) => this.#gone(port).length > 0)) await this.#look(signal);
    const ports = [...this.#dirty];
    this.#dirty.clear();
    const [open, close]: [number[], number[]] = [[], []];
    const [put, remove]: [RelayLink[], RelayLink[]] = [[], []];
    for (const port of ports) {
      const [wanted, loaded] = [this.#wanted.get(port), this.#loaded.get(port)];
      if (wanted === undefined && loaded !== undefined) close.push(port);
      if (wanted !== undefined && loaded === undefined) open.push(port);
      put.push(...without(wanted ?? [], loaded ?? []).map(({ ends }) => ({ port, ends })));
      remove.push(...this.#gone(port).map(({ ends }) => ({ port, ends })));
      if (wanted === undefined) this.#forget(port);
      else this.#loaded.set(port, wanted);
    }
    for (const key of [...put, ...remove].flatMap(keysOf)) this.#seen.delete(key);
    await this.#deps.table.change({ open, close, put, remove }, signal);
  }

  #gone(port: number): readonly Link[] {
    return without(this.#loaded.get(port) ?? [], this.#wanted.get(port) ?? []);
  }

  #forget(port: number): void {
    this.#loaded.delete(port);
    this.#meters.delete(port);
  }

  /** One after the other: a renewal that overtook a removal would put back what has ended. */
  #guarded(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    return this.#queue.run(() => this.#attempt(work));
  }

  async #attempt(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { signal } = this.#controller;
    if (!this.#isOn) return;
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

  async #look(signal: AbortSignal): Promise<void> {
    const { leases, passed } = await this.#deps.table.read(signal);
    const entered = this.#count(leases);
    this.#entered = passed === this.#passed ? this.#entered + entered : 0;
    this.#passed = passed;
  }

  /** The packets that are new, of links that the kernel turns round; those of others reach the process, which counts them itself. */
  #count(leases: readonly LeaseCount[]): number {
    const links = new Map<string, RelayLink>();
    for (const link of this.#links()) for (const key of keysOf(link)) links.set(key, link);
    let entered = 0;
    for (const { key, packets, bytes } of leases) {
      const known = this.#seen.get(key) ?? NOTHING;
      // One that was made anew in between counts from zero.
      const before = bytes >= known.bytes && packets >= known.packets ? known : NOTHING;
      this.#seen.set(key, { packets, bytes });
      const link = links.get(key);
      if (link !== undefined && !this.#isInKernel(link)) continue;
      const more = bytes - before.bytes;
      this.bytes += more;
      if (link === undefined) continue;
      entered += packets - before.packets;
      if (more > 0) this.#meters.get(link.port)?.(more);
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
