// The journal of a role on disk: one small JSON file that is whole at every moment, and read with distrust.
import { constants } from "node:fs";
import { type FileHandle, open, readdir, rename, unlink } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { z } from "zod";
import { SerialQueue } from "../base/async.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Role } from "../proto/role.ts";
import { entryKey, type Journal, type SysctlKey, type UndoEntry } from "./journal.ts";
import { isAlive, type ProcessIdentity, thisProcess } from "./process-identity.ts";
import { giveToOwnerOf, syncDir } from "./secret-file.ts";
import { isSysctlValue, parseSysctlKey } from "./sysctl.ts";

export interface JournalOwner extends ProcessIdentity {
  /** False when the machine was started anew since: then the kernel's state is gone, and only files are left to put back. */
  readonly sameBoot: boolean;
  readonly alive: boolean;
}

export interface JournalFile extends Journal {
  /** Who wrote the file that was found; null when there was none. */
  readonly owner: JournalOwner | null;
}

export interface JournalOptions {
  readonly path: string;
  readonly role: Role | "server";
  readonly log: Logger;
}

export class JournalUnreadable extends HiggsError {
  override readonly name = "JournalUnreadable";
}

/** Nothing was changed then: an entry is on disk before the change that it speaks of. */
export class JournalUnwritable extends HiggsError {
  override readonly name = "JournalUnwritable";
}

const VERSION = 1;
/** A full journal has about ten entries; root does not read more than this of a file that a lesser user may have written. */
const LIMIT_BYTES = 64 * 1024;
const ENTRIES_LIMIT = 64;
const CORRUPT_KEPT = 3;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const sysctlValue = z.string().refine(isSysctlValue);
const sysctlKey = z.custom<SysctlKey>((value) => typeof value === "string" && parseSysctlKey(value) !== null);
const resolvConfOriginal = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("file"), mode: z.int().min(0).max(0o777), sha256 }),
  // A link's text: printable ASCII, which every resolver's own link is.
  z.strictObject({ kind: z.literal("symlink"), target: z.string().regex(/^[\x20-\x7e]{1,255}$/) }),
  z.strictObject({ kind: z.literal("absent") }),
]);
const undoEntry = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("wireguard-device") }),
  z.strictObject({ kind: z.literal("nft-table") }),
  z.strictObject({ kind: z.literal("egress-table") }),
  z.strictObject({ kind: z.literal("iptables-chains") }),
  z.strictObject({ kind: z.literal("demux-table") }),
  z.strictObject({ kind: z.literal("redirect-table") }),
  z.strictObject({ kind: z.literal("log-table") }),
  z.strictObject({ kind: z.literal("ip-rules") }),
  z.strictObject({ kind: z.literal("ip-routes") }),
  z.strictObject({ kind: z.literal("sysctl"), key: sysctlKey, before: sysctlValue, ours: sysctlValue }),
  z.strictObject({ kind: z.literal("resolv-conf"), original: resolvConfOriginal, oursSha256: sha256 }),
  z.strictObject({ kind: z.literal("resolvconf-record") }),
  z.strictObject({ kind: z.literal("resolved-link") }),
  z.strictObject({ kind: z.literal("pf-anchor") }),
  z.strictObject({ kind: z.literal("pf-enable"), token: z.nullable(z.string().regex(/^\d{1,20}$/)) }),
  z.strictObject({ kind: z.literal("marked-routes") }),
  z.strictObject({ kind: z.literal("scutil-dns") }),
  z.strictObject({ kind: z.enum(["windows-tunnel", "windows-routes", "windows-dns", "windows-firewall"]) }),
  z.strictObject({
    kind: z.literal("windows-profile"),
    profile: z.enum(["Domain", "Private", "Public"]),
    before: z.strictObject({
      enabled: z.enum(["True", "False", "NotConfigured"]),
      outbound: z.enum(["Allow", "Block", "NotConfigured"]),
    }),
  }),
]);
const journalSchema = z.strictObject({
  version: z.literal(VERSION),
  role: z.enum(["node", "client", "server"]),
  bootId: z.string().regex(/^[0-9a-f-]{36}$/),
  pid: z.int().min(1).max(0x7fff_ffff),
  startTime: z.string().regex(/^\d{1,20}$/),
  undo: z.array(undoEntry).max(ENTRIES_LIMIT),
});

/**
 * A file that cannot be understood is renamed aside (`journal.json.corrupt-1` to `-3`, then the last is replaced) and the
 * journal starts empty: what it spoke of is found again by its fixed identifiers.
 * Throws JournalUnreadable when the folder does not allow reading or renaming.
 */
export async function openJournal(options: JournalOptions): Promise<JournalFile> {
  const me = thisProcess();
  await unlink(temporaryPathFor(options.path)).catch(() => undefined); // of a process that was killed while it wrote
  const found = await readJournal(options);
  const owner: JournalOwner | null =
    found === null
      ? null
      : {
          pid: found.pid,
          startTime: found.startTime,
          bootId: found.bootId,
          sameBoot: found.bootId === me.bootId,
          alive: isAlive(found),
        };
  let undo: readonly UndoEntry[] = (found?.undo ?? []).filter(
    (entry) => owner?.sameBoot === true || outlivesBoot(entry),
  );
  let isOurs = false; // the file names this process
  const queue = new SerialQueue();
  const save = async (next: readonly UndoEntry[]): Promise<void> => {
    if (next.length === 0) await removeFile(options.path);
    else await writeWhole(options.path, JSON.stringify({ version: VERSION, role: options.role, ...me, undo: next }));
    undo = next;
    isOurs = true;
  };
  const forget = async (entry: UndoEntry): Promise<void> => {
    const next = undo.filter((one) => !isSame(one, entry));
    try {
      await save(next);
    } catch (thrown) {
      // A file that is there to stay would be taken for what is still to be undone, and that is all that it may stop.
      if (next.length === 0) throw thrown;
      options.log.warn({ path: options.path, error: errorText(thrown) }, "the journal still names what was undone");
      undo = next;
    }
  };

  return {
    owner,
    entries: () => undo,
    add: (entry) =>
      queue.run(async () => {
        const known = undo.find((one) => isSame(one, entry));
        const merged = known === undefined ? undoEntry.parse(entry) : merge(known, entry);
        if (isOurs && known !== undefined && Bun.deepEquals(known, merged)) return;
        await save([...undo.filter((one) => one !== known), merged]);
      }),
    remove: (entry) => queue.run(() => forget(entry)),
  };
}

/** A boot takes everything with it that is not a file, and what openresolv made of our record is one; Windows keeps its firewall, its names and its services in the registry. */
function outlivesBoot({ kind }: UndoEntry): boolean {
  return kind === "resolv-conf" || kind === "resolvconf-record" || kind.startsWith("windows-");
}

function isSame(a: UndoEntry, b: UndoEntry): boolean {
  return entryKey(a) === entryKey(b);
}

/** What was there before we came is what the older entry says; what we made of it is what the newer one says. */
function merge(older: UndoEntry, newer: UndoEntry): UndoEntry {
  if (older.kind === "sysctl" && newer.kind === "sysctl") return { ...newer, before: older.before };
  if (older.kind === "windows-profile" && newer.kind === "windows-profile") return older;
  if (older.kind === "resolv-conf" && newer.kind === "resolv-conf") return { ...newer, original: older.original };
  return newer;
}

async function readJournal(options: JournalOptions): Promise<z.infer<typeof journalSchema> | null> {
  let file: FileHandle;
  try {
    // O_NONBLOCK: a FIFO under this name must not hold us up.
    file = await open(options.path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (thrown) {
    if (codeOf(thrown) === "ENOENT") return null;
    if (codeOf(thrown) === "ELOOP") return await putAside(options, "it is a symbolic link");
    throw unreadable(options.path, thrown);
  }
  try {
    const facts = await file.stat();
    if (!facts.isFile()) return await putAside(options, "it is no plain file");
    if (facts.size > LIMIT_BYTES) return await putAside(options, `it has ${facts.size} bytes`);
    const parsed = journalSchema.safeParse(parseJson(await file.readFile("utf8")));
    if (!parsed.success) return await putAside(options, parsed.error.issues[0]?.message ?? "not as expected");
    if (parsed.data.role !== options.role) return await putAside(options, `it is the journal of a ${parsed.data.role}`);
    return parsed.data;
  } finally {
    await file.close();
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // the schema refuses it
  }
}

async function putAside(options: JournalOptions, reason: string): Promise<null> {
  const dir = dirname(options.path);
  const names = new Set(await readdir(dir));
  let n = 1;
  while (n < CORRUPT_KEPT && names.has(`${basename(options.path)}.corrupt-${n}`)) n++;
  const asidePath = `${options.path}.corrupt-${n}`;
  try {
    await rename(options.path, asidePath);
    await syncDir(dir);
  } catch (thrown) {
    throw unreadable(options.path, thrown);
  }
  options.log.warn({ path: options.path, asidePath, reason }, "the journal could not be understood and was put aside");
  return null;
}

async function removeFile(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (thrown) {
    if (codeOf(thrown) === "ENOENT") return;
    throw thrown;
  }
  await syncDir(dirname(path));
}

function temporaryPathFor(path: string): string {
  return `${path}.tmp`;
}

/** Whoever looks sees the old file or the new one, also after a power cut. One process of a role writes at a time. */
async function writeWhole(path: string, text: string): Promise<void> {
  const temporaryPath = temporaryPathFor(path);
  await unlink(temporaryPath).catch(() => undefined); // of a write that failed
  try {
    await writeNew(temporaryPath, text);
    await rename(temporaryPath, path);
  } catch (thrown) {
    await unlink(temporaryPath).catch(() => undefined); // it was not made
    throw unwritable(path, thrown);
  }
  await syncDir(dirname(path));
}

async function writeNew(path: string, text: string): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const file = await open(path, flags, 0o600);
  try {
    await giveToOwnerOf(dirname(path), file);
    await file.writeFile(`${text}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
}

function codeOf(thrown: unknown): string {
  return thrown instanceof Error && "code" in thrown && typeof thrown.code === "string" ? thrown.code : "";
}

function unwritable(path: string, thrown: unknown): JournalUnwritable {
  const isFull = ["ENOSPC", "EDQUOT"].includes(codeOf(thrown));
  return new JournalUnwritable(
    `Cannot write the journal "${path}": ${isFull ? "the disk is full" : errorText(thrown)}.`,
    {
      code: isFull ? "storage-full" : "journal-unwritable",
      remedy: isFull
        ? `Free some space on that disk, and try again. See: df -h ${dirname(path)}`
        : `Look at the folder's owner and mode: ls -ld ${dirname(path)}`,
      detail: { path },
      cause: thrown,
    },
  );
}

function unreadable(path: string, thrown: unknown): JournalUnreadable {
  return new JournalUnreadable(`Cannot read the journal "${path}": ${errorText(thrown)}.`, {
    code: "journal-unreadable",
    remedy: "Run the command as the user that higgs runs as, or as root.",
    detail: { path },
    cause: thrown,
  });
}
