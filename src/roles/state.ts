// Putting a machine back as it was, without the process that changed it.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { silentLogger } from "../base/log.ts";
import { removeSocket } from "../net/local-api.ts";
import { machineSystem } from "../net/os.ts";
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
  await using _lock = await acquireInstanceLock({ runDir: dirs.runDir, role });
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

const journalFacts = z.object({ role: z.enum(["server", "node", "client"]) });

/** Whose journal is in the folder; null for none, or one that nobody can read. */
export async function journalRole(stateDir: string): Promise<Role | "server" | null> {
  try {
    return journalFacts.parse(JSON.parse(await readFile(join(stateDir, "journal.json"), "utf8"))).role;
  } catch {
    return null; // undoing goes by fixed names then
  }
}
