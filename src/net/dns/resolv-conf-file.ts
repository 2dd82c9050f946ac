// Reads and replaces /etc/resolv.conf as what it is: a file, a symbolic link, or nothing.
import { constants } from "node:fs";
import { lstat, type FileHandle, open, readlink, rename, symlink, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDir } from "../secret-file.ts";
import { padded } from "./resolv-conf-text.ts";

export type FileState =
  | {
      readonly kind: "file";
      readonly bytes: Uint8Array;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
    }
  | { readonly kind: "symlink"; readonly target: string }
  | { readonly kind: "absent" };

/** Fixed, so that one which a killed process left behind is found again. */
export function temporaryPathFor(path: string): string {
  return `${path}.higgs-new`;
}

/** Throws for a directory or a device of that name. */
export async function readState(path: string): Promise<FileState> {
  for (let tries = 1; ; tries++) {
    try {
      return await readStateOnce(path);
    } catch (thrown) {
      if (!["ENOENT", "ELOOP", "EINVAL"].includes(codeOf(thrown)) || tries === MOST_TRIES) throw thrown;
    }
  }
}

/** A file that is replaced again and again is so between two looks of ours some time. */
const MOST_TRIES = 10;

/** What is taken away, or replaced by a link or a file, between the two looks at it throws ENOENT, ELOOP or EINVAL. */
async function readStateOnce(path: string): Promise<FileState> {
  const facts = await unless("ENOENT", lstat(path));
  if (facts === null) return { kind: "absent" };
  if (facts.isSymbolicLink()) return { kind: "symlink", target: await readlink(path) };
  return await readPlain(path, constants.O_NOFOLLOW);
}

/** What a resolver reads there, through links; null when there is nothing to read. */
export async function readThrough(path: string): Promise<Extract<FileState, { kind: "file" }> | null> {
  return await unless("ENOENT", readPlain(path, 0));
}

/** As readThrough; "hidden" for a file that this user may not read, which cannot be told from ours where it is written in place. */
export async function readIfAllowed(path: string): Promise<Extract<FileState, { kind: "file" }> | "hidden" | null> {
  try {
    return await readThrough(path);
  } catch (thrown) {
    if (codeOf(thrown) === "EACCES") return "hidden";
    throw thrown;
  }
}

async function readPlain(path: string, flag: number): Promise<Extract<FileState, { kind: "file" }>> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | flag);
  try {
    const { mode, uid, gid } = await file.stat();
    return { kind: "file", bytes: new Uint8Array(await file.readFile()), mode: mode & 0o777, uid, gid };
  } finally {
    await file.close();
  }
}

/** False where the folder takes no new files: a read-only /etc, or a service that may write only this one file. */
export async function isReplaceable(path: string): Promise<boolean> {
  try {
    await (await createNew(temporaryPathFor(path))).close();
    await unlink(temporaryPathFor(path));
    return true;
  } catch (thrown) {
    if (forbids(thrown)) return false;
    throw thrown;
  }
}

/**
 * Whoever looks sees the old state or the new one. A file that is a mount point of its own (containers), or whose folder
 * takes no new files or whose disk is full, is written in place; a link or nothing cannot be made there, and the refusal is thrown.
 */
export async function putState(path: string, state: FileState): Promise<void> {
  try {
    await replace(path, state);
  } catch (thrown) {
    if (!(forbids(thrown) || isFull(thrown)) || state.kind !== "file") throw thrown;
    await writeInPlace(path, state.bytes);
  } finally {
    await removeTemporary(path);
  }
}

/** Of a process that was killed while it wrote. */
export async function removeTemporary(path: string): Promise<void> {
  try {
    await unlink(temporaryPathFor(path));
  } catch (thrown) {
    if (codeOf(thrown) !== "ENOENT" && !forbids(thrown)) throw thrown;
  }
}

async function replace(path: string, state: FileState): Promise<void> {
  const temporaryPath = temporaryPathFor(path);
  if (state.kind === "absent") {
    await unless("ENOENT", unlink(path));
  } else {
    await removeTemporary(path);
    if (state.kind === "symlink") await symlink(state.target, temporaryPath);
    else await writeNew(temporaryPath, state);
    await rename(temporaryPath, path);
  }
  await syncDir(dirname(path));
}

async function writeNew(path: string, state: Extract<FileState, { kind: "file" }>): Promise<void> {
  const file = await createNew(path);
  try {
    // By its handle: a state folder's owner could put a link in its place.
    if (process.getuid?.() === 0) await file.chown(state.uid, state.gid);
    await file.chmod(state.mode);
    await file.writeFile(state.bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

function createNew(path: string): Promise<FileHandle> {
  return open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
}

async function writeInPlace(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, constants.O_WRONLY);
  try {
    const text = padded(bytes, (await file.stat()).size);
    await file.write(text, 0, text.length, 0);
    await file.sync();
    await file.truncate(bytes.length);
    await file.sync();
  } finally {
    await file.close();
  }
}

function forbids(thrown: unknown): boolean {
  return ["EROFS", "EACCES", "EPERM", "EBUSY", "EXDEV"].includes(codeOf(thrown));
}

function isFull(thrown: unknown): boolean {
  return ["ENOSPC", "EDQUOT"].includes(codeOf(thrown));
}

export function codeOf(thrown: unknown): string {
  return thrown instanceof Error && "code" in thrown && typeof thrown.code === "string" ? thrown.code : "";
}

async function unless<T>(code: string, work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (thrown) {
    if (codeOf(thrown) === code) return null;
    throw thrown;
  }
}
