// One process per role and run folder: a lock file that the next process takes over once its owner is dead.
//
// There is no flock here. The lock is a name that link(2) makes, which one process alone succeeds at:
//
//   lock                        the owner, as JSON {"pid","startTime","bootId","role","token"}; the token makes each one's text its own,
//                               and "brief":true says that it is a command, for which others wait
//   lock.after-<pid>-<start>    who succeeds that dead owner: the right to replace "lock"
//
// A successor may die too, before it has replaced the lock; it is then succeeded in the same way. So the chain "lock",
// "lock.after-<owner of lock>", "lock.after-<owner of that>" … ends at a living process, or at a name that is free. The
// chain is read again once the name was won: when the lock has been replaced meanwhile, the name means nothing.
import { constants, type Stats } from "node:fs";
import { link, lstat, open, readdir, rename, unlink } from "node:fs/promises";
import { join } from "node:path";
import { errorText, HiggsError } from "../base/errors.ts";
import { isAlive, type ProcessIdentity, thisProcess } from "./process-identity.ts";
import { makeRunDir } from "./run-dir.ts";

export class AlreadyRunning extends HiggsError {
  override readonly name = "AlreadyRunning";
}

export class RunDirRefused extends HiggsError {
  override readonly name = "RunDirRefused";
}

/** Disposing gives the lock back; a process that dies without doing so leaves it to the next one. */
export type InstanceLock = AsyncDisposable;

const LOCK = "lock";
const TRIES = 100; // each lost race means that another process got on
const LIMIT_BYTES = 512;

export interface LockOptions {
  readonly runDir: string;
  /** Each has a run folder of its own, so that all three may share a machine. */
  readonly role: "server" | "node" | "client";
  /** True for a command that is over in moments. */
  readonly brief?: boolean;
}

interface Owner extends ProcessIdentity {
  readonly isBrief: boolean;
}

interface Link {
  readonly name: string;
  readonly text: string;
  readonly owner: Owner | null;
}

/** A command that takes everything away asks some dozens of tools; one that takes longer than this hangs. */
const BRIEF_MS = 10_000;
const BRIEF_POLL_MS = 20;

/**
 * Waits for a command that holds the lock for moments. Throws AlreadyRunning (`already-running`, naming the pid). Makes the folder where
 * there is none, see makeRunDir.
 */
export async function acquireInstanceLock(options: LockOptions): Promise<InstanceLock> {
  const { runDir, role, brief = false } = options;
  const token = crypto.randomUUID();
  const mine = JSON.stringify({ ...thisProcess(), role, token, ...(brief ? { brief } : {}) });
  const ownPath = join(runDir, `${LOCK}.new-${token}`);
  try {
    await makeRunDir(runDir);
    await writeNew(ownPath, mine);
  } catch (thrown) {
    throw new RunDirRefused(`Cannot start the ${role}: nothing can be written to "${runDir}": ${errorText(thrown)}.`, {
      code: "run-dir-refused",
      remedy: "Run the command as root, or name another folder with --run.",
      detail: { runDir },
      cause: thrown,
    });
  }
  try {
    const until = performance.now() + BRIEF_MS;
    for (let attempt = 0; attempt < TRIES; ) {
      const outcome = await succeed(runDir, { ownPath, role, waits: performance.now() < until });
      if (outcome === "won") return lockOf(join(runDir, LOCK), mine);
      if (outcome === "lost") attempt++;
      else await Bun.sleep(BRIEF_POLL_MS);
    }
  } finally {
    await unlinkQuietly(ownPath);
  }
  throw new AlreadyRunning(`Cannot start the ${role}: others keep taking the lock in "${runDir}".`, {
    code: "already-running",
    detail: { runDir },
  });
}

/** Whose lock is in the run folder; null for none, or one that nobody can read. The process may be dead. */
export async function lockOwner(runDir: string): Promise<ProcessIdentity | null> {
  const text = await readSmall(join(runDir, LOCK));
  return text === null ? null : parseOwner(text);
}

/** One try: "lost" when another process was faster, and "held" by a command while the caller waits for such. */
async function succeed(
  runDir: string,
  own: { readonly ownPath: string; readonly role: LockOptions["role"]; readonly waits: boolean },
): Promise<"won" | "lost" | "held"> {
  const chain = await readChain(runDir);
  const last = chain.at(-1);
  if (last?.owner !== undefined && last.owner !== null && isAlive(last.owner)) {
    const { pid, isBrief } = last.owner;
    if (isBrief && own.waits) return "held";
    throw new AlreadyRunning(
      `Cannot start the ${own.role}: ${isBrief ? "a command is at work" : "one is already running"} here, with the pid ${pid}.`,
      {
        code: "already-running",
        remedy: `higgs ${own.role} status --run ${runDir}`,
        detail: { pid, runDir },
      },
    );
  }
  const name = last === undefined ? LOCK : successorOf(last);
  if (!(await linkIfFree(own.ownPath, join(runDir, name)))) return "lost";
  if (last === undefined) return "won";
  const again = await readChain(runDir, chain.length);
  if (JSON.stringify(again) !== JSON.stringify(chain)) {
    await unlinkQuietly(join(runDir, name));
    return "lost";
  }
  // A hard link of its own, because rename does nothing when both names are one file already.
  await rename(own.ownPath, join(runDir, LOCK));
  await sweep(runDir, await readSmall(join(runDir, LOCK)));
  return "won";
}

/** Under our lock no other name means anything; those of the living are theirs to remove. */
async function sweep(runDir: string, mine: string | null): Promise<void> {
  for (const name of await readdir(runDir)) {
    if (!name.startsWith(`${LOCK}.after-`) && !name.startsWith(`${LOCK}.new-`)) continue;
    const text = await readSmall(join(runDir, name));
    const owner = text === null ? null : parseOwner(text);
    if (text === mine || owner === null || !isAlive(owner)) await unlinkQuietly(join(runDir, name));
  }
}

function successorOf(link: Link): string {
  return link.owner === null ? `${LOCK}.after-unreadable` : `${LOCK}.after-${link.owner.pid}-${link.owner.startTime}`;
}

/** From "lock" on, up to the first living owner or the last that is there. */
async function readChain(runDir: string, limit = Number.POSITIVE_INFINITY): Promise<readonly Link[]> {
  const chain: Link[] = [];
  let name = LOCK;
  while (chain.length < limit) {
    const text = await readSmall(join(runDir, name));
    if (text === null) break;
    const link: Link = { name, text, owner: parseOwner(text) };
    if (chain.some((earlier) => earlier.name === name)) break;
    chain.push(link);
    if (link.owner !== null && isAlive(link.owner)) break;
    name = successorOf(link);
  }
  return chain;
}

/** Null for what is no owner: as good as dead. */
function parseOwner(text: string): Owner | null {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return null;
    if (!("pid" in value && "startTime" in value && "bootId" in value)) return null;
    const { pid, startTime, bootId } = value;
    if (typeof pid !== "number" || !Number.isSafeInteger(pid) || pid < 1) return null;
    if (typeof startTime !== "string" || !/^\d{1,20}$/.test(startTime) || typeof bootId !== "string") return null;
    return { pid, startTime, bootId, isBrief: "brief" in value && value.brief === true };
  } catch {
    return null; // garbage, as after a power cut
  }
}

function lockOf(path: string, mine: string): InstanceLock {
  let held = true;
  return {
    async [Symbol.asyncDispose]() {
      if (!held) return;
      held = false;
      if ((await readSmall(path)) === mine) await unlinkQuietly(path);
    },
  };
}

async function writeNew(path: string, text: string): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const file = await open(path, flags, 0o640);
  try {
    await file.writeFile(text);
  } finally {
    await file.close();
  }
}

async function linkIfFree(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (thrown) {
    if (thrown instanceof Error && "code" in thrown && thrown.code === "EEXIST") return false;
    throw thrown;
  }
}

async function readSmall(path: string): Promise<string | null> {
  let facts: Stats;
  try {
    facts = await lstat(path);
  } catch {
    return null; // free
  }
  if (!facts.isFile() || facts.size > LIMIT_BYTES) return "";
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      return await file.readFile("utf8");
    } finally {
      await file.close();
    }
  } catch (thrown) {
    if (thrown instanceof Error && "code" in thrown && thrown.code === "ENOENT") return null;
    throw new AlreadyRunning(`Cannot read the lock "${path}": ${errorText(thrown)}.`, {
      code: "already-running",
      remedy: "Run the command as root, or as the user that higgs runs as.",
      detail: { path },
      cause: thrown,
    });
  }
}

async function unlinkQuietly(path: string): Promise<void> {
  await unlink(path).catch(() => undefined); // gone already
}
