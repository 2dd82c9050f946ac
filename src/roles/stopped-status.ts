// What `higgs client status` shows where no client runs and this machine is closed all the same.
import { silentLogger } from "../base/log.ts";
import { IDENTIFIERS } from "../net/identifiers.ts";
import { readLockdown } from "../net/lockdown-file.ts";
import { systemsHere } from "../net/os.ts";
import { readEnrolment } from "../peer/enrolment.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { TUNNEL_MTU } from "../peer/tunnel.ts";
import { blockedHealth, damagedHealth } from "./client-status.ts";
import type { HealthEntry } from "./health.ts";
import { VERSION } from "./version.ts";

/** Null where the kill switch is off, and a client that ended without putting things back has left nothing. */
export async function stoppedStatus(stateDir: string, signal: AbortSignal) {
  const lockdown = await readLockdown(stateDir);
  const isLoaded = await isClosed(stateDir, signal);
  if (!lockdown.lockdown && isLoaded !== true) return null;
  // Neither the file nor the rules are for this user to read: nothing is known.
  if (lockdown.damage !== null && isLoaded === null) return null;
  // Without a network there is nothing to say of one.
  const enrolment = await openStateDir(stateDir).then(
    async (dir) => await readEnrolment(dir, "client").catch(() => null),
    () => null,
  );
  const health: HealthEntry[] = lockdown.damage === null ? [] : [damagedHealth(lockdown.damage)];
  health.push(lockdown.lockdown ? blockedHealth(false) : LEFT);
  if (lockdown.lockdown && isLoaded === false) health.push(NOT_LOADED);
  return {
    schema: "higgs.client-status/1",
    version: VERSION,
    state: "blocked",
    name: enrolment?.name ?? null,
    exit: null,
    tunnel: {
      interface: IDENTIFIERS.client.interface,
      ipv4: enrolment?.ipv4 ?? null,
      ipv6: enrolment?.ipv6 ?? null,
      mtu: TUNNEL_MTU,
      implementation: "none",
    },
    path: null,
    traffic: { rxBytes: 0, txBytes: 0, lastHandshake: null },
    lockdown: lockdown.lockdown,
    lan: lockdown.lan,
    paranoid: lockdown.paranoid,
    startedAt: null,
    health,
  };
}

const LEFT: HealthEntry = {
  code: "client-died",
  severity: "high",
  text: "No client runs, and the one before ended without putting things back: nothing leaves beside its tunnel.",
  remedy: "sudo higgs client up, or: sudo higgs state clean --role client",
};
const NOT_LOADED: HealthEntry = {
  code: "lockdown-not-loaded",
  severity: "high",
  text: "The kill switch is on, and its rules are not loaded: this machine is open.",
  remedy: "sudo higgs client lockdown load",
};

/** Null where this user may not know. */
async function isClosed(stateDir: string, signal: AbortSignal): Promise<boolean | null> {
  try {
    return await (await systemsHere()).clientLock({ stateDir, log: silentLogger }).isLoaded(signal);
  } catch {
    signal.throwIfAborted();
    return null; // no firewall, or no right to ask it
  }
}
