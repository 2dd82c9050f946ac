// Sets the machine's DNS servers in /etc/resolv.conf, and puts the file back byte for byte.
import { SerialQueue, sleep } from "../../base/async.ts";
import { equalBytes, utf8 } from "../../base/bytes.ts";
import { errorText } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Journal, ResolvConfOriginal, UndoEntry } from "../journal.ts";
import { DnsRefused } from "./errors.ts";
import { readBackup, removeBackup, writeBackup } from "./resolv-conf-backup.ts";
import {
  codeOf,
  type FileState,
  isReplaceable,
  putState,
  readState,
  readThrough,
  removeTemporary,
} from "./resolv-conf-file.ts";
import { isOurs, isPaddedCopy, resolvConfText, sha256 } from "./resolv-conf-text.ts";
import { writerOf } from "./resolv-conf-writer.ts";
import type { DnsPolicy, SystemDns } from "./system-dns.ts";

export interface ResolvConfDeps {
  /** Where the file as it was is kept, under the fixed name `resolv.conf.before`. */
  readonly stateDir: string;
  readonly journal: Journal;
  readonly log: Logger;
  /** Default /etc/resolv.conf. */
  readonly path?: string;
  /** Makes a resolver read the file that keeps what it has read; see makeResolvedRead. */
  readonly makeRead?: (signal: AbortSignal) => Promise<void>;
}

/*
 * The order of an apply, each step durable before the next: a process may be killed between any two of them.
 *   1  forget the journal's entry of an earlier time     the file is not ours: nothing is to be put back
 *   2  copy the file to the state folder
 *   3  add the journal's entry
 *   4  replace the file                                  from here on it is ours, and a reset puts the copy back
 * A reset goes by the file itself: ours (the marker's hash fits) is replaced by the copy, any other is left as it is.
 */

/** Calls are done one after the other, in their order. Another program that writes the file wins until the next `apply`. */
export function resolvConfDns(deps: ResolvConfDeps): SystemDns {
  const queue = new SerialQueue();
  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        signal.throwIfAborted();
        await apply(deps, policy);
      }),
    reset: (signal) => queue.run(async () => void (await restoreResolvConf(deps, signal))),
  };
}

async function apply(deps: ResolvConfDeps, policy: DnsPolicy): Promise<void> {
  const path = pathOf(deps);
  const bytes = utf8(resolvConfText(policy));
  const now = await readThrough(path);
  if (now !== null && equalBytes(now.bytes, bytes)) return;
  deps.log.info({ servers: policy.servers, path }, "setting the DNS servers in resolv.conf");
  const ours: FileState = { kind: "file", bytes, mode: 0o644, uid: 0, gid: 0 };
  const entry = { kind: "resolv-conf", oursSha256: sha256(bytes) } as const;
  if (now !== null && isOurs(now.bytes)) {
    const original = (await readBackup(deps.stateDir)) ?? { kind: "absent" };
    await deps.journal.add({ ...entry, original: described(original) });
    await put(path, ours);
    return;
  }
  const original = await kept(await originalOf(path), deps);
  await forget(deps.journal);
  await writeBackup(deps.stateDir, original);
  await deps.journal.add({ ...entry, original: described(original) });
  try {
    await put(path, ours);
  } catch (thrown) {
    await forget(deps.journal); // nothing was changed
    await removeBackup(deps.stateDir);
    throw thrown;
  }
}

/** Puts the file back where it is still ours, with or without the journal's memory. True when it was ours. */
export async function restoreResolvConf(deps: ResolvConfDeps, signal: AbortSignal): Promise<boolean> {
  signal.throwIfAborted();
  const { stateDir, journal, log } = deps;
  const path = pathOf(deps);
  await removeTemporary(path);
  const backup = await readBackup(stateDir);
  let mustReturn = await isOursToPutBack(path, backup);
  if (mustReturn) {
    if (backup === null) throw copyMissing(path);
    warnIfOther(backup, { journal, log });
    log.info({ path, original: backup.kind }, "putting resolv.conf back");
    if (deps.makeRead !== undefined && leadsToResolved(backup)) {
      await put(path, { kind: "file", bytes: utf8(EMPTY_TEXT), mode: 0o644, uid: 0, gid: 0 });
      await deps.makeRead(signal);
    }
    mustReturn = await putBack(path, backup, signal);
  }
  if (!mustReturn && backup !== null) log.info({ path }, "leaving resolv.conf as somebody else wrote it");
  await forget(journal);
  await removeBackup(stateDir);
  return mustReturn;
}

/**
 * True for a file of ours, whole or half written, and for none at all where there was one: whoever took ours away put nothing in its
 * place.
 */
async function isOursToPutBack(path: string, backup: FileState | null): Promise<boolean> {
  const now = await readThrough(path);
  if (now !== null) return isOurs(now.bytes) || (backup?.kind === "file" && isPaddedCopy(now.bytes, backup.bytes));
  return backup !== null && backup.kind !== "absent" && (await readState(path)).kind === "absent";
}

/**
 * False where there is nothing of ours any more: the resolver took its time, and somebody else wrote a file meanwhile, which is theirs,
 * or put this one back, as `higgs panic` beside `higgs state clean` does. Two at once take each other's half-written file away.
 */
async function putBack(path: string, backup: FileState, signal: AbortSignal): Promise<boolean> {
  for (let tries = 1; await isOursToPutBack(path, backup); tries++) {
    try {
      await put(path, backup);
      return true;
    } catch (thrown) {
      const code = thrown instanceof DnsRefused ? codeOf(thrown.cause) : "";
      if (!["ENOENT", "EEXIST"].includes(code) || tries === MOST_TRIES) throw thrown;
      await sleep(Math.random() * MOST_APART_MS, signal); // not in step with the other
    }
  }
  return false;
}

const MOST_TRIES = 10;
const MOST_APART_MS = 20;

/** Ours as any other, should we be killed before the next step. */
const EMPTY_TEXT = resolvConfText({ interface: "", servers: [] });

/** Where the file is systemd-resolved's own, it has read ours as somebody else's meanwhile. */
function leadsToResolved(original: FileState): boolean {
  return original.kind === "symlink" && original.target.includes("systemd/resolve/");
}

function pathOf(deps: ResolvConfDeps): string {
  return deps.path ?? "/etc/resolv.conf";
}

/** A program whose link we took away may write a file in its place: the link is what was there before, and leads to the same text. */
async function kept(now: FileState, { journal, stateDir }: ResolvConfDeps): Promise<FileState> {
  const before = journaled(journal) === undefined ? null : await readBackup(stateDir);
  if (now.kind === "absent") return before ?? now; // whoever took it away put nothing in its place
  if (now.kind !== "file" || before?.kind !== "symlink") return now;
  const isAlike = writerOf({ state: now, bytes: now.bytes }) === writerOf({ state: before, bytes: null });
  return isAlike && writerOf({ state: before, bytes: null }) !== "person" ? before : now;
}

/** Where the link itself cannot be replaced, the file behind it is what is written and put back. */
async function originalOf(path: string): Promise<FileState> {
  const state = await readState(path);
  if (state.kind === "file" || (await isReplaceable(path))) return state;
  const behind = await readThrough(path);
  if (behind !== null) return behind;
  throw refused(path, "it is not there, and its folder takes no new files");
}

async function put(path: string, state: FileState): Promise<void> {
  try {
    await putState(path, state);
  } catch (thrown) {
    throw refused(path, errorText(thrown), thrown);
  }
}

function refused(path: string, why: string, cause?: unknown): DnsRefused {
  return new DnsRefused(`Cannot write "${path}": ${why}.`, {
    code: "resolv-conf-refused",
    remedy: `Run as root; see who protects the file with: lsattr ${path}; findmnt -T ${path}`,
    detail: { path },
    cause,
  });
}

function copyMissing(path: string): DnsRefused {
  return new DnsRefused(`Cannot put "${path}" back: the copy in the state folder is gone.`, {
    code: "resolv-conf-copy-missing",
    remedy: `Write "nameserver" and the address of your network's DNS server into ${path}.`,
    detail: { path },
  });
}

async function forget(journal: Journal): Promise<void> {
  const entry = journaled(journal);
  if (entry !== undefined) await journal.remove(entry);
}

function journaled(journal: Journal): Extract<UndoEntry, { kind: "resolv-conf" }> | undefined {
  return journal.entries().find((entry) => entry.kind === "resolv-conf");
}

/** A journal that speaks of another original does not stop us: a name server that is gone helps nobody. */
function warnIfOther(backup: FileState, deps: Pick<ResolvConfDeps, "journal" | "log">): void {
  const original = journaled(deps.journal)?.original;
  if (original === undefined || JSON.stringify(original) === JSON.stringify(described(backup))) return;
  deps.log.warn({ original, backup: described(backup) }, "the copy of resolv.conf is not the one of the journal");
}

function described(state: FileState): ResolvConfOriginal {
  if (state.kind === "file") return { kind: "file", mode: state.mode, sha256: sha256(state.bytes) };
  return state.kind === "symlink" ? { kind: "symlink", target: state.target } : { kind: "absent" };
}
