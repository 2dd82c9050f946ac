// Taking everything of higgs off this machine at once: by fixed names, needing no running process, no network and no state.
import { join } from "node:path";
import { stat } from "node:fs/promises";
import { errorText } from "../base/errors.ts";
import { silentLogger } from "../base/log.ts";
import { type Exec, findTool, systemExec } from "../net/exec.ts";
import { removeSocket } from "../net/local-api.ts";
import { OPEN, readLockdown, writeLockdown } from "../net/lockdown-file.ts";
import { systemsHere } from "../net/os.ts";
import { usualDirs } from "../net/platform.ts";
import { readPrivileges, requireNetAdmin } from "../net/privileges.ts";
import { flagIn, killProcess, rolesRunning } from "../net/processes.ts";
import { acquireInstanceLock, lockOwner } from "../net/single-instance.ts";
import { UndoIncomplete } from "../net/undo-steps.ts";
import type { AnyRole } from "./config.ts";
import { SOCKET } from "./runtime.ts";
import { cleanServerRelay } from "./server-relay.ts";

export interface PanicSays {
  /** Something was done. */
  done(line: string): void;
  /** Something could not be done. */
  failed(line: string): void;
}

const ROLES: readonly AnyRole[] = ["client", "node", "server"];
const SYSTEMCTL_MS = 15_000;

/** Goes on whatever fails. Throws PrivilegeMissing and PlatformUnsupported, and then nothing was done. */
export async function panic(says: PanicSays, signal: AbortSignal): Promise<void> {
  await systemsHere();
  requireNetAdmin(await readPrivileges(), "higgs panic");
  const exec = systemExec();
  const attempt = async (what: string, work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (thrown) {
      signal.throwIfAborted();
      says.failed(`Cannot ${what}: ${errorText(thrown)}`);
    }
  };
  const dirs = await dirsInUse();
  // Otherwise they would mend what is taken away, and be started again.
  await attempt("stop the services", () => stopServices(exec, says, signal));
  await attempt("end what runs", () => endAll(says, signal));
  for (const role of ROLES) {
    for (const stateDir of dirs.state(role)) {
      if (role === "client") await attempt("switch the kill switch off", () => switchOff(stateDir, says));
      await attempt(`put back what the ${role} changed`, () => undo(role, stateDir, { says, signal }));
    }
    for (const runDir of dirs.run(role)) {
      for (const name of Object.values(SOCKET)) await removeSocket(join(runDir, name)).catch(() => undefined); // it is nobody's
      await removeLock(runDir, role).catch(() => undefined); // another has started since
    }
  }
}

/** The usual folders, and those that a running role was told to use. */
async function dirsInUse() {
  const running = await rolesRunning();
  const of = (flag: string, base: string) => (role: AnyRole) => {
    const told = running.filter(({ argv }) => argv.includes(role)).flatMap(({ argv }) => flagIn(argv, flag) ?? []);
    return [...new Set([`${base}/${role}`, ...told])];
  };
  const usual = usualDirs();
  return { state: of("--state", usual.state), run: of("--run", usual.run) };
}

async function stopServices(exec: Exec, says: PanicSays, signal: AbortSignal): Promise<void> {
  const isSystemd = await stat("/run/systemd/system").then(
    () => true,
    () => false,
  );
  if (!isSystemd || findTool("systemctl") === null) return;
  const units = ROLES.map((role) => `higgs-${role}.service`);
  for (const unit of units) {
    const shown = await exec.run(["systemctl", "is-active", unit], { signal });
    if (!["active", "activating", "reloading", "deactivating"].includes(shown.stdout.trim())) continue;
    await exec.run(["systemctl", "kill", "--signal=SIGKILL", unit], { signal });
    await exec.run(["systemctl", "stop", unit], { signal, timeoutMs: SYSTEMCTL_MS });
    says.done(
      `Stopped the service ${unit}. It starts again at the next boot; for good: sudo systemctl disable ${unit}`,
    );
  }
}

async function endAll(says: PanicSays, signal: AbortSignal): Promise<void> {
  const running = await rolesRunning();
  const ended = await Promise.all(running.map(({ identity }) => killProcess(identity, signal)));
  running.forEach(({ identity, argv }, i) => {
    const role = ROLES.find((one) => argv.includes(one)) ?? "higgs";
    if (ended[i] === true) says.done(`Ended the ${role} (process ${identity.pid}).`);
    else says.failed(`Cannot end the ${role}: process ${identity.pid} does not die.`);
  });
}

async function switchOff(stateDir: string, says: PanicSays): Promise<void> {
  if (!(await readLockdown(stateDir)).lockdown) return;
  await writeLockdown(stateDir, OPEN);
  says.done("Switched the kill switch off.");
}

/** Of whoever was killed. */
async function removeLock(runDir: string, role: AnyRole): Promise<void> {
  if ((await lockOwner(runDir)) === null) return;
  await using _lock = await acquireInstanceLock({ runDir, role, brief: true });
}

async function undo(
  role: AnyRole,
  stateDir: string,
  { says, signal }: { readonly says: PanicSays; readonly signal: AbortSignal },
): Promise<void> {
  const log = silentLogger;
  if (role === "server") {
    for (const line of await cleanServerRelay(stateDir, log, signal)) says.done(line);
    return;
  }
  try {
    for (const line of await (await systemsHere()).removeAll(role, { stateDir, log }, signal)) says.done(line);
  } catch (thrown) {
    if (!(thrown instanceof UndoIncomplete)) throw thrown;
    for (const line of thrown.detail.done as readonly string[]) says.done(line);
    for (const line of thrown.detail.failures as readonly string[]) says.failed(line);
  }
}
