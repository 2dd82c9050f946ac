// The record of clients' connections, where the owner keeps one: one line each, one file a day, and no longer than was said.
import { appendFile, mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { repeat, SerialQueue, Stopped } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { formatEndpoint, type IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { ConnectionLog, SeenConnection } from "../net/firewall/connection-log.ts";

export interface ConnectionRecordDeps {
  readonly seen: ConnectionLog;
  /** The client with that tunnel address, or null. */
  readonly nameOf: (address: IpAddress) => string | null;
  readonly log: Logger;
  /** Unix time in milliseconds. */
  readonly now?: () => number;
}

export interface ConnectionRecord extends Service {
  /** 0: nothing is kept, and what was kept is deleted. */
  setDays(days: number): void;
  /** Somebody touched the firewall. */
  rulesTouched(): void;
  /** Resolves once all that was asked for is done. */
  idle(): Promise<void>;
}

/** Under a minute, which is how long the kernel remembers. */
const READ_MS = 10_000;
/** A day's file grows no further: a client that scans the internet must not fill the disk. */
const MOST_DAY_BYTES = 64 * 1024 * 1024;
/** The kernel tells whole seconds: entries whose first packet is so close together are the same one. */
const SAME_MS = 2_500;
const DAY_MS = 86_400_000;
const FILE = /^(\d{4}-\d{2}-\d{2})\.jsonl$/;

/** `dir` is made when there is something to keep, for its owner alone. */
export function openConnectionRecord(
  deps: ConnectionRecordDeps,
  options: { readonly dir: string; readonly days: number },
): ConnectionRecord {
  const controller = new AbortController();
  const { signal } = controller;
  const now = deps.now ?? Date.now;
  const queue = new SerialQueue();
  let days = options.days;
  /** What was written, by its key, with the time of its first packet. */
  let known = new Map<string, number>();

  async function pass(): Promise<void> {
    await deps.seen.apply(days > 0, signal);
    if (days === 0) {
      known = new Map();
      await rm(options.dir, { recursive: true, force: true });
      return;
    }
    const at = now();
    const fresh = freshOf(await deps.seen.read(signal), at);
    if (fresh.length > 0) await write(fresh, at);
    await prune(at);
  }

  function freshOf(seen: readonly SeenConnection[], at: number): readonly string[] {
    const next = new Map<string, number>();
    const lines: string[] = [];
    for (const one of seen.toSorted((a, b) => b.ageS - a.ageS)) {
      const key = `${one.client} ${one.protocol} ${formatEndpoint(one)}`;
      const sinceMs = at - one.ageS * 1000;
      const before = known.get(key);
      const isKnown = before !== undefined && Math.abs(before - sinceMs) < SAME_MS;
      next.set(key, isKnown ? before : sinceMs);
      if (!isKnown) lines.push(lineOf(one, { sinceMs, name: deps.nameOf(one.client) }));
    }
    known = next;
    return lines;
  }

  async function write(lines: readonly string[], at: number): Promise<void> {
    await mkdir(options.dir, { recursive: true, mode: 0o700 });
    const path = join(options.dir, `${dayOf(at)}.jsonl`);
    const size = await stat(path).then(
      (facts) => facts.size,
      () => 0,
    );
    if (size > MOST_DAY_BYTES) {
      deps.log.warn({ path, dropped: lines.length }, "the record of this day is full");
      return;
    }
    await appendFile(path, lines.map((line) => `${line}\n`).join(""), { mode: 0o600 });
  }

  async function prune(at: number): Promise<void> {
    const first = dayOf(at - days * DAY_MS);
    for (const name of await readdir(options.dir).catch(() => [])) {
      const day = FILE.exec(name)?.[1];
      if (day !== undefined && day <= first) await rm(join(options.dir, name), { force: true });
    }
  }

  const run = async (): Promise<void> => {
    if (signal.aborted) return;
    try {
      await queue.run(pass);
    } catch (thrown) {
      if (!signal.aborted) deps.log.error({ reason: errorText(thrown) }, "cannot keep connections on record");
    }
  };
  const loop = repeat(run, { everyMs: READ_MS, signal, onError: () => undefined }); // run() has told of every failure

  return {
    setDays(next) {
      if (next === days) return;
      days = next;
      void run();
    },
    rulesTouched() {
      if (days > 0) void run();
    },
    idle: () => queue.idle(),
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await loop;
      await queue.idle();
    },
  };
}

/** Metadata alone: when, who, how and where to; never a name that was asked, a page or a byte of content. */
function lineOf(one: SeenConnection, more: { readonly sinceMs: number; readonly name: string | null }): string {
  return JSON.stringify({
    at: new Date(more.sinceMs).toISOString(),
    client: more.name ?? one.client,
    protocol: one.protocol,
    to: formatEndpoint(one),
  });
}

function dayOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
