// Files that hold secrets: created whole with mode 0600, refused when others may read them.
import { constants } from "node:fs";
import { type FileHandle, lstat, mkdir, open, readdir, rename, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { HiggsError } from "../base/errors.ts";
import { systemExec } from "./exec.ts";
import { protectFolder } from "./windows-folder.ts";

export class SecretFileError extends HiggsError {
  override readonly name = "SecretFileError";
}

const OTHERS = 0o077;
/** Windows has no such modes; there the rights of the folder protect what lies in it. */
const HAS_MODES = process.platform !== "win32";
const NO_FOLLOW = constants.O_NOFOLLOW ?? 0;

function codeOf(thrown: unknown): string {
  return thrown instanceof Error && "code" in thrown && typeof thrown.code === "string" ? thrown.code : "";
}

function notPlain(path: string): SecretFileError {
  return new SecretFileError(`Cannot read "${path}": it is no plain file.`, {
    code: "file-not-plain",
    remedy: `Look at it (ls -l ${path}) and put the real file in its place.`,
    detail: { path },
  });
}

/**
 * The file's bytes, or null when there is none.
 * Throws SecretFileError `file-too-open` when group or others have any right on it, `file-not-plain` for a symbolic link or a folder.
 */
export async function readSecretFile(path: string): Promise<Uint8Array | null> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | NO_FOLLOW);
  } catch (thrown) {
    if (codeOf(thrown) === "ENOENT") return null;
    if (codeOf(thrown) === "ELOOP") throw notPlain(path);
    throw thrown;
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw notPlain(path);
    if (HAS_MODES && (stat.mode & OTHERS) !== 0) {
      throw new SecretFileError(
        `Cannot use "${path}": it holds a secret and its mode is ${(stat.mode & 0o777).toString(8).padStart(4, "0")}, which lets others read it.`,
        { code: "file-too-open", remedy: `chmod 600 ${path}`, detail: { path, mode: stat.mode & 0o777 } },
      );
    }
    return new Uint8Array(await file.readFile());
  } finally {
    await file.close();
  }
}

/**
 * Replaces the file in one step: whoever looks sees the old bytes or the new ones, also after a power cut.
 * A file of that name that is a symbolic link is replaced, never followed.
 * Throws SecretFileError `storage-full` or `file-not-writable`; then the old bytes are still there.
 */
export async function writeSecretFile(path: string, bytes: Uint8Array): Promise<void> {
  const temporaryPath = `${path}.${process.pid}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  try {
    const file = await open(
      temporaryPath,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | NO_FOLLOW,
      0o600,
    );
    try {
      await giveToOwnerOf(dirname(path), file);
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporaryPath, path);
  } catch (thrown) {
    await unlink(temporaryPath).catch(() => undefined); // it was not made, or is renamed already
    throw notWritten(path, thrown);
  }
  await syncDir(dirname(path));
}

/** What root writes into the folder of a service that runs as a lesser user is that user's, who must be able to read it. */
export async function giveToOwnerOf(dir: string, file: FileHandle): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = await lstat(dir);
  // By its handle: the folder's owner could have put a link in its place.
  if (uid !== 0) await file.chown(uid, gid);
}

/** `<name>.<pid>.<8 hex digits>.tmp`, as writeSecretFile names what it has not finished. */
const HALF_WRITTEN = /\.(\d{1,10})\.[0-9a-f]{8}\.tmp$/;

/** Takes away what processes left that were killed while they wrote; harmless for a folder that is not there. */
export async function sweepHalfWritten(dir: string): Promise<void> {
  const names = await readdir(dir).catch(() => []); // not there, or not ours to read: nothing to sweep
  for (const name of names) {
    const pid = HALF_WRITTEN.exec(name)?.[1];
    if (pid !== undefined && !isRunning(Number(pid))) await unlink(join(dir, name)).catch(() => undefined); // gone already
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (thrown) {
    return codeOf(thrown) !== "ESRCH";
  }
}

function notWritten(path: string, thrown: unknown): unknown {
  switch (codeOf(thrown)) {
    case "ENOSPC":
    case "EDQUOT":
      return new SecretFileError(`Cannot write "${path}": the disk is full.`, {
        code: "storage-full",
        remedy: "Free some space on that disk, and try again.",
        detail: { path },
        cause: thrown,
      });
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new SecretFileError(`Cannot write "${path}": this process may not write there.`, {
        code: "file-not-writable",
        remedy: `Look at the folder's owner and mode: ls -ld ${dirname(path)}`,
        detail: { path },
        cause: thrown,
      });
    default:
      return thrown;
  }
}

/** Makes what happened to a folder's entries (create, rename, unlink) last through a power cut. */
export async function syncDir(dir: string): Promise<void> {
  if (!HAS_MODES) return; // folders cannot be opened there
  const handle = await open(dir, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * The folder exists afterwards, with mode 0700 when it was made here, and without half-written files.
 * Throws SecretFileError `file-too-open` when group or others may write to one that was there, `file-not-plain` when it is no folder.
 */
export async function ensurePrivateDir(path: string): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o755 }); // each role's own folder is private, and not what is above it
    await mkdir(path, { recursive: true, mode: 0o700 });
  } catch (thrown) {
    if (codeOf(thrown) !== "EEXIST") throw notWritten(path, thrown);
  }
  if (!HAS_MODES) await protectFolder(systemExec(), path);
  const stat = await lstat(path);
  const { uid } = process.geteuid === undefined ? stat : { uid: process.geteuid() };
  if (HAS_MODES && uid !== 0 && uid !== stat.uid) {
    throw new SecretFileError(`Cannot use "${path}": it belongs to another user.`, {
      code: "file-not-writable",
      remedy: "Run the command with sudo, or name another folder with --state.",
      detail: { path },
    });
  }
  if (!stat.isDirectory()) {
    throw new SecretFileError(`Cannot keep secrets in "${path}": it is no folder.`, {
      code: "file-not-plain",
      remedy: "Name another folder with --state.",
      detail: { path },
    });
  }
  if (HAS_MODES && (stat.mode & 0o022) !== 0) {
    throw new SecretFileError(
      `Cannot keep secrets in "${path}": its mode is ${(stat.mode & 0o777).toString(8).padStart(4, "0")}, which lets others write to it.`,
      { code: "file-too-open", remedy: `chmod 700 ${path}`, detail: { path, mode: stat.mode & 0o777 } },
    );
  }
  await sweepHalfWritten(path);
}
