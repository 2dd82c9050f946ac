// Putting a machine back as it was, without the process that changed it.
import { silentLogger } from "../base/log.ts";
import { machineSystem } from "../net/os.ts";
import { acquireInstanceLock } from "../net/single-instance.ts";

/** Throws AlreadyRunning while the role's process lives. Resolves with a sentence for each thing that was put back. */
export async function cleanState(
  role: "node" | "client",
  dirs: { readonly stateDir: string; readonly runDir: string },
): Promise<readonly string[]> {
  await using _lock = await acquireInstanceLock({ runDir: dirs.runDir, role });
  const os = await machineSystem(role, {
    stateDir: dirs.stateDir,
    libexecDir: "/var/lib/higgs/libexec",
    wireGuard: "auto",
    command: "higgs state clean",
    log: silentLogger,
  });
  return await os.undoAll(new AbortController().signal);
}
