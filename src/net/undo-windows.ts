// Puts everything back that a role changed on Windows: how each kind of change is undone, and in which order.
import type { Logger } from "../base/log.ts";
import type { Role } from "../proto/role.ts";
import { removeWindowsDns } from "./dns/windows.ts";
import { type Exec, ToolMissing } from "./exec.ts";
import { removeGroup, restoreWindowsProfiles, windowsClientFirewall } from "./firewall/windows-client.ts";
import { IDENTIFIERS } from "./identifiers.ts";
import type { Journal, WindowsUndoEntry } from "./journal.ts";
import { loadBlocked } from "./lock.ts";
import { type Lockdown, OPEN, readLockdown } from "./lockdown-file.ts";
import { removeWindowsRoutes } from "./routes/windows.ts";
import { runUndo, type Step } from "./undo-steps.ts";
import { removeTunnelService } from "./wg/windows.ts";
import { firewallGroup } from "./windows-names.ts";
import { readWindowsNetwork, windowsLinks, windowsLocalNetworks } from "./windows-network.ts";

export interface WindowsUndoDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
  readonly stateDir: string;
  /** higgs' own executable. */
  readonly program: string;
  readonly signal: AbortSignal;
  /** True: the kill switch goes too, which stays otherwise as long as it is on. */
  readonly unlock?: boolean;
}

type WindowsKind = WindowsUndoEntry["kind"];

/** Names stop being asked through the tunnel first; routes go while the interface that they name is there; what closes goes last. */
const ORDER: readonly WindowsKind[] = [
  "windows-dns",
  "windows-routes",
  "windows-tunnel",
  "windows-profile",
  "windows-firewall",
];
const CLOSING: readonly WindowsKind[] = ["windows-profile", "windows-firewall"];

/** As `undoAll` on Linux. */
export async function undoWindows(role: Role, deps: WindowsUndoDeps): Promise<readonly string[]> {
  const locked = role === "client" && deps.unlock !== true ? await readLockdown(deps.stateDir) : OPEN;
  return await runUndo(deps, {
    role,
    steps: stepsOf(role, deps),
    order: ORDER,
    kept: locked.lockdown ? { kinds: CLOSING, close: () => keepLocked(deps, locked) } : null,
    remedy: `In an elevated prompt: higgs state clean --role ${role}`,
    wasNeverThere: (thrown) => Promise.resolve(thrown instanceof ToolMissing),
  });
}

async function keepLocked(deps: WindowsUndoDeps, locked: Lockdown): Promise<string> {
  const firewall = windowsClientFirewall({ ...deps, group: firewallGroup("client") });
  const networks = async (signal: AbortSignal) =>
    windowsLocalNetworks(windowsLinks(await readWindowsNetwork(deps.exec, signal)));
  await loadBlocked({ log: deps.log, firewall, networks }, locked, deps.signal);
  return "Kept the kill switch, which is on: nothing leaves this machine. Off: higgs client lockdown off";
}

function stepsOf(role: Role, deps: WindowsUndoDeps): Readonly<Record<WindowsKind, Step>> {
  const { exec, journal, signal } = deps;
  const identifiers = IDENTIFIERS[role];
  const group = firewallGroup(role);
  const forgetting = async (
    kind: Exclude<WindowsKind, "windows-profile">,
    sentences: readonly string[],
  ): Promise<readonly string[]> => {
    await journal.remove({ kind });
    return sentences;
  };
  return {
    "windows-dns": async () => {
      const wasThere = await removeWindowsDns(exec, identifiers.interface, signal);
      return forgetting("windows-dns", wasThere ? ["Took away the rule that sent every name through the tunnel."] : []);
    },
    "windows-routes": async () => {
      const wereThere = await removeWindowsRoutes(exec, identifiers, signal);
      return forgetting("windows-routes", wereThere ? [`Removed the routes of the ${role}.`] : []);
    },
    "windows-tunnel": async () => {
      const wasThere = await removeTunnelService({ ...deps, identifiers }, signal);
      return forgetting("windows-tunnel", wasThere ? [`Removed the WireGuard tunnel ${identifiers.interface}.`] : []);
    },
    // The node closes nothing by its default action, and must not take the client's for its own.
    "windows-profile": async (isJournaled) =>
      role === "client" || isJournaled ? await restoreWindowsProfiles({ exec, journal, group }, signal) : [],
    "windows-firewall": async () => {
      const count = await removeGroup(exec, group, signal);
      return forgetting("windows-firewall", count === 0 ? [] : [`Removed the rules "${group}" of Windows Firewall.`]);
    },
  };
}
