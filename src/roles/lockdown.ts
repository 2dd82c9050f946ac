// The kill switch of a client: what a person decided, in force while a process holds it and when none runs.
import { errorText, HiggsError } from "../base/errors.ts";
import { type Logger, silentLogger } from "../base/log.ts";
import type { Connection } from "../client/connection.ts";
import { nearbyOf, networksOrNone } from "../net/lock.ts";
import {
  type KeptLockdown,
  type Lockdown,
  type LockdownChange,
  lockdownPath,
  readLockdown,
  writeLockdown,
} from "../net/lockdown-file.ts";
import { removeSocket } from "../net/local-api.ts";
import { systemsHere } from "../net/os.ts";
import { platformOf, requireAskedFor } from "../net/platform.ts";
import type { ClientSystem } from "../net/system.ts";
import { readPrivileges, requireNetAdmin } from "../net/privileges.ts";
import { ensurePrivateDir } from "../net/secret-file.ts";
import { acquireInstanceLock } from "../net/single-instance.ts";
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { SOCKET } from "./runtime.ts";

/** The kill switch closes what was asked for. */
export class KillSwitchOn extends HiggsError {
  override readonly name = "KillSwitchOn";
}

export const LOCKDOWN_OFF = "sudo higgs client lockdown off";

/** Long enough for a busy machine; a firewall that hangs must not keep a client from ending. */
const CLOSE_MS = 5000;

/** A running client's. The caller sees to it that its methods do not overlap. */
export interface HeldLockdown {
  readonly current: KeptLockdown;
  /** Decided, kept on disk and in force when it resolves. */
  change(change: LockdownChange, connection: Connection | null, signal: AbortSignal): Promise<void>;
  /** Closes everything while a connection is being undone. */
  close(): Promise<void>;
  /** After everything was undone: from now on `rest` is this process's to keep. */
  rested(): void;
  /** After an attempt to connect came to nothing. */
  blocked(signal: AbortSignal): Promise<void>;
  /** Brings the firewall of a client without a connection to what was decided, if somebody changed it. */
  rest(signal: AbortSignal): Promise<void>;
}

export async function holdLockdown(deps: {
  readonly os: Pick<ClientSystem, "block" | "clientFirewall" | "firewallTrouble" | "localNetworks" | "paranoidTrouble">;
  readonly stateDir: string;
  readonly log: Logger;
}): Promise<HeldLockdown> {
  const { os, stateDir, log } = deps;
  let current = await readLockdown(stateDir);
  /** Until then the firewall may be that of a process before this one, whose tunnel lives. */
  let isOurs = false;
  /** False after a change that the disk did not take. */
  let isKept = true;
  if (current.damage !== null) {
    log.error({ path: lockdownPath(stateDir), reason: current.damage }, "the kill switch's file counts as on");
  }
  return {
    get current() {
      return current;
    },
    async change(change, connection, signal) {
      const before = current;
      const after = merged(before, change);
      if (isKept && before.damage === null && Bun.deepEquals(before, after)) return;
      // Where nothing can hold it, it must not be said to be on.
      const trouble = os.firewallTrouble ?? (after.paranoid ? os.paranoidTrouble : undefined);
      if (after.lockdown && trouble !== undefined) throw trouble;
      log.info({ lockdown: after.lockdown, lan: after.lan, paranoid: after.paranoid }, "changing the kill switch");
      const unkept = await keep(stateDir, after, { opens: !after.lockdown });
      isKept = unkept === null;
      current = after;
      if (connection !== null) await connection.protect(signal);
      else if (after.lockdown) await os.block(after, signal);
      else if (before.lockdown) await os.clientFirewall.reset(signal);
      isOurs = true;
      if (unkept !== null) throw unkept;
    },
    async close() {
      const signal = AbortSignal.timeout(CLOSE_MS);
      const near = nearbyOf(await networksOrNone({ networks: os.localNetworks, log }, signal), current);
      await os.clientFirewall.apply({ policy: { kind: "disconnecting", near }, egress: [] }, signal);
    },
    rested() {
      isOurs = true;
    },
    async blocked(signal) {
      if (current.lockdown) await os.block(current, signal);
    },
    async rest(signal) {
      if (isOurs && current.lockdown) await os.block(current, signal);
    },
  };
}

function merged(before: Lockdown, change: LockdownChange): KeptLockdown {
  return {
    lockdown: change.lockdown ?? before.lockdown,
    lan: change.lan ?? before.lan,
    paranoid: change.paranoid ?? before.paranoid,
    damage: null,
  };
}

/** Off, but only until the next start. */
export class LockdownUnkept extends HiggsError {
  override readonly name = "LockdownUnkept";
}

/**
 * On disk when it resolves with null. What closes is not in force unless it is kept; what opens must not hang on a disk: then it
 * resolves with what is to be thrown once the machine is open.
 */
async function keep(
  stateDir: string,
  lockdown: Lockdown,
  { opens }: { readonly opens: boolean },
): Promise<LockdownUnkept | null> {
  try {
    await ensurePrivateDir(stateDir);
    await writeLockdown(stateDir, lockdown);
    return null;
  } catch (thrown) {
    if (!opens) throw thrown;
    const why = errorText(thrown).replace(/\.$/, "");
    return new LockdownUnkept(
      `The kill switch is off now, but not for good: ${why}. The next start of the client or of this machine closes it again.`,
      { code: "lockdown-unkept", remedy: `Make ${stateDir} writable, then: ${LOCKDOWN_OFF}`, cause: thrown },
    );
  }
}

interface Stopped {
  readonly state: string;
  readonly run: string;
  readonly untestedPlatform: boolean;
}

/**
 * The same where no client runs. Opening puts everything else back too, as no process is there to use it, and hangs on nothing: neither on
 * the state folder, nor on the journal, nor on a tool. Resolves with what was decided and sentences of what was put back.
 * Throws AlreadyRunning, PrivilegeMissing, and, once the machine is open, LockdownUnkept.
 */
export async function changeStopped(
  dirs: Stopped,
  change: LockdownChange,
  signal: AbortSignal,
): Promise<{ readonly lockdown: Lockdown; readonly undone: readonly string[] }> {
  if (change.lockdown === true) requireAskedFor(platformOf(), dirs.untestedPlatform, "close this machine");
  requireNetAdmin(await readPrivileges(), "higgs client lockdown …");
  await using _lock = await acquireInstanceLock({ runDir: dirs.run, role: "client", brief: true });
  const before = await readLockdown(dirs.state);
  const after = merged(before, change);
  const systems = await systemsHere();
  const deps = { stateDir: dirs.state, log: silentLogger };
  const lock = systems.clientLock(deps);
  const trouble = after.lockdown ? ((await lock.trouble?.(after, signal)) ?? null) : null;
  if (trouble !== null) throw trouble;
  const unkept = await keep(dirs.state, after, { opens: !after.lockdown });
  if (after.lockdown) {
    await lock.block(after, signal);
    return { lockdown: after, undone: [] };
  }
  const isClosed = (): Promise<boolean> => lock.isLoaded(signal).catch(() => true);
  try {
    // Also where the file says that it is off already: a try before this one may have come no further.
    const undone = before.lockdown || (await isClosed()) ? await systems.removeAll("client", deps, signal) : [];
    for (const name of Object.values(SOCKET)) await removeSocket(join(dirs.run, name)); // of a client that died
    if (unkept === null) return { lockdown: after, undone };
  } catch (thrown) {
    signal.throwIfAborted();
    // Files of a folder that cannot be written stay too, which is the lesser trouble.
    if (unkept === null || (await isClosed())) throw thrown;
  }
  throw unkept;
}

/** What `load` found and did. */
export type Loaded = "off" | "there" | "loaded";

/**
 * For an early unit, before the network is up: closes the machine where the kill switch is on, from what is kept on disk. What a
 * client before left in place is closed already, and stays.
 */
export async function loadLockdown(
  stateDir: string,
  log: Logger,
  signal: AbortSignal,
): Promise<{ readonly what: Loaded; readonly lockdown: KeptLockdown }> {
  const lockdown = await readLockdown(stateDir);
  if (!lockdown.lockdown) return { what: "off", lockdown };
  requireNetAdmin(await readPrivileges(), "higgs client lockdown load");
  const lock = (await systemsHere()).clientLock({ stateDir, log });
  if (await lock.isLoaded(signal)) return { what: "there", lockdown };
  await lock.block(lockdown, signal);
  return { what: "loaded", lockdown };
}

/** Throws KillSwitchOn where it would keep `what` from the server. */
export async function requireUnlocked(what: string, stateDir: string): Promise<void> {
  // Whoever may not look into the folder is told so by whatever needs it; to say that it is locked would be a guess.
  if (await isForOthers(stateDir)) return;
  if (!(await readLockdown(stateDir)).lockdown) return;
  throw new KillSwitchOn(`Cannot ${what}: the kill switch is on, and lets nothing through but a connection.`, {
    code: "blocked",
    remedy: LOCKDOWN_OFF,
  });
}

async function isForOthers(dir: string): Promise<boolean> {
  return await access(dir, constants.R_OK | constants.X_OK).then(
    () => false,
    (thrown: unknown) => (thrown as { code?: string }).code === "EACCES",
  );
}
