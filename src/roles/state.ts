// Putting a machine back as it was, without the process that changed it.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { silentLogger } from "../base/log.ts";
import { type Change, listChanges } from "../net/changes.ts";
import { systemExec } from "../net/exec.ts";
import { openJournal } from "../net/journal-file.ts";
import { removeSocket } from "../net/local-api.ts";
import { readLockdown } from "../net/lockdown-file.ts";
import { machineSystem, systemsHere } from "../net/os.ts";
import { sweepHalfWritten } from "../net/secret-file.ts";
import { acquireInstanceLock } from "../net/single-instance.ts";
import type { Role } from "../proto/role.ts";
import { SOCKET } from "./runtime.ts";
import { cleanServerRelay } from "./server-relay.ts";

/** Throws AlreadyRunning while the role's process lives. Resolves with a sentence for each thing that was put back. */
export async function cleanState(
  role: Role | "server",
  dirs: { readonly stateDir: string; readonly runDir: string },
): Promise<readonly string[]> {
  await using _lock = await acquireInstanceLock({ runDir: dirs.runDir, role, brief: true });
  const { signal } = new AbortController();
  const said =
    role === "server"
      ? await cleanServerRelay(dirs.stateDir, silentLogger, signal)
      : await undoMachine(role, dirs, signal);
  for (const name of Object.values(SOCKET)) await removeSocket(join(dirs.runDir, name));
  await sweepHalfWritten(dirs.stateDir);
  return said;
}

async function undoMachine(
  role: Role,
  dirs: { readonly stateDir: string },
  signal: AbortSignal,
): Promise<readonly string[]> {
  const os = await machineSystem(role, {
    stateDir: dirs.stateDir,
    libexecDir: "/var/lib/higgs/libexec",
    wireGuard: "auto",
    command: "higgs state clean",
    log: silentLogger,
  });
  return os.undoAll(signal);
}

/** What a role that does not run has left. Throws AlreadyRunning, PrivilegeMissing, ToolFailed. */
export async function listState(
  role: Role | "server",
  dirs: { readonly stateDir: string; readonly runDir: string },
): Promise<readonly Change[]> {
  // The journal is the running process's own.
  await using _lock = await acquireInstanceLock({ runDir: dirs.runDir, role, brief: true });
  const { signal } = new AbortController();
  if (role === "server") {
    const { stateDir } = dirs;
    const journal = await openJournal({ path: join(stateDir, "journal.json"), role, log: silentLogger });
    return await listChanges(role, { exec: systemExec(), journal, stateDir, signal });
  }
  const os = await machineSystem(role, {
    stateDir: dirs.stateDir,
    libexecDir: "/var/lib/higgs/libexec",
    wireGuard: "auto",
    command: "higgs state list",
    log: silentLogger,
  });
  return await os.changes(signal);
}

/**
 * What a role that does not run has left and should not have, as a person would find it. The kill switch's own table is there on
 * purpose, and missed where it is not.
 */
export async function leftBehind(
  role: Role | "server",
  dirs: { readonly stateDir: string; readonly runDir: string },
): Promise<readonly string[]> {
  return await unwanted(role, dirs.stateDir, await listState(role, dirs));
}

/** The same by fixed names alone, without the role's lock: changes nothing, not even a run folder. Throws ToolFailed. */
export async function leftByName(
  role: Role | "server",
  stateDir: string,
  signal: AbortSignal,
): Promise<readonly string[]> {
  return await unwanted(role, stateDir, await changesByName(role, stateDir, signal));
}

async function changesByName(role: Role | "server", stateDir: string, signal: AbortSignal): Promise<readonly Change[]> {
  if (role !== "server") return await (await systemsHere()).changesByName(role, stateDir, signal);
  return await listChanges(role, { exec: systemExec(), journal: { entries: () => [] }, stateDir, signal });
}

async function unwanted(
  role: Role | "server",
  stateDir: string,
  changes: readonly Change[],
): Promise<readonly string[]> {
  const found = changes.filter((change) => change.kind !== "file");
  const isLocked = role === "client" && (await readLockdown(stateDir)).lockdown;
  if (!isLocked) return found.map((change) => change.what);
  const { closing, closingInstead = [] } = await systemsHere();
  const names = found.map((change) => change.what);
  const left = names.filter((what) => !closing.includes(what) && !closingInstead.includes(what));
  const isInstead = closingInstead.length > 0 && closingInstead.every((what) => names.includes(what));
  const isClosed = isInstead || names.some((what) => what === closing[0]);
  return isClosed ? left : [...left, `The kill switch is on, and its ${closing[0]} is missing.`];
}

/** Of a server that runs, whose journal is its own: what bears its name. */
export async function relayState(stateDir: string, signal: AbortSignal): Promise<readonly Change[]> {
  const journal = { entries: () => [{ kind: "nft-table" } as const] };
  return await listChanges("server", { exec: systemExec(), journal, stateDir, signal });
}

const journalFacts = z.object({ role: z.enum(["server", "node", "client"]) });

/** Whose journal is in the folder; null for none, or one that nobody can read. */
export async function journalRole(stateDir: string): Promise<Role | "server" | null> {
  try {
    return journalFacts.parse(JSON.parse(await readFile(join(stateDir, "journal.json"), "utf8"))).role;
  } catch {
    return null; // undoing goes by fixed names then
  }
}
