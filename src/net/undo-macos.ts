// Puts everything back that a client changed on macOS: how each kind of change is undone, and in which order.
import type { Logger } from "../base/log.ts";
import type { Role } from "../proto/role.ts";
import { removeDns } from "./dns/scutil.ts";
import { type Exec, ToolMissing } from "./exec.ts";
import { flushPf, pfClientFirewall, releasePf } from "./firewall/pf-client.ts";
import type { Journal, MacUndoEntry } from "./journal.ts";
import { macLinks, macNetworks, readShown } from "./links-macos.ts";
import { loadBlocked } from "./lock.ts";
import { type Lockdown, OPEN, readLockdown } from "./lockdown-file.ts";
import { removeMarkedRoutes } from "./routes/macos.ts";
import { runUndo, type Step } from "./undo-steps.ts";
import { type MacWireGuardHost, tunnelName } from "./wg/host-macos.ts";
import { removeTunnel } from "./wg/macos.ts";

export interface MacUndoDeps {
  readonly exec: Exec;
  readonly host: MacWireGuardHost;
  readonly journal: Journal;
  readonly log: Logger;
  readonly stateDir: string;
  readonly signal: AbortSignal;
  /** True: the kill switch goes too, which stays otherwise as long as it is on. */
  readonly unlock?: boolean;
}

type MacKind = MacUndoEntry["kind"];

/** For when no journal tells the order of the way up: names first, and what keeps traffic from passing outside last. */
const ORDER: readonly MacKind[] = ["scutil-dns", "wireguard-device", "marked-routes", "pf-anchor", "pf-enable"];

/** As `undoAll` of Linux. A node was never here, and left nothing. */
export async function undoMac(role: Role, deps: MacUndoDeps): Promise<readonly string[]> {
  if (role !== "client") return [];
  const locked = deps.unlock === true ? OPEN : await readLockdown(deps.stateDir);
  return await runUndo(deps, {
    role,
    steps: stepsOf(deps),
    order: ORDER,
    kept: locked.lockdown ? { kinds: ["pf-anchor", "pf-enable"], close: () => keepLocked(deps, locked) } : null,
    remedy: "sudo higgs state clean --role client",
    // What a missing tool would have to undo, it was never there to do.
    wasNeverThere: (thrown) => Promise.resolve(thrown instanceof ToolMissing),
  });
}

/** Closes this machine, with what is near it by the kill switch's own choice. */
export async function blockMac(
  deps: Omit<MacUndoDeps, "stateDir" | "signal" | "unlock">,
  locked: Lockdown,
  signal: AbortSignal,
): Promise<void> {
  const { exec, host } = deps;
  const device = () => tunnelName(host);
  const networks = async (inner: AbortSignal) => macNetworks(macLinks(await readShown(exec, inner), await device()));
  await loadBlocked({ ...deps, networks, firewall: pfClientFirewall({ ...deps, device }) }, locked, signal);
}

async function keepLocked(deps: MacUndoDeps, locked: Lockdown): Promise<string> {
  await blockMac(deps, locked, deps.signal);
  return "Kept the kill switch, which is on: nothing leaves this machine. Off: sudo higgs client lockdown off";
}

function stepsOf(deps: MacUndoDeps): Readonly<Record<MacKind, Step>> {
  const { exec, journal, signal } = deps;
  return {
    "scutil-dns": async () => ((await removeDns(deps, signal)) ? ["Took the tunnel's DNS servers away."] : []),
    "wireguard-device": async () => {
      const wasThere = await removeTunnel(deps, signal);
      await journal.remove({ kind: "wireguard-device" });
      return wasThere ? ["Removed the WireGuard tunnel."] : [];
    },
    "marked-routes": async () => {
      const wereThere = await removeMarkedRoutes(exec, signal);
      await journal.remove({ kind: "marked-routes" });
      return wereThere ? ["Removed the routes of the client."] : [];
    },
    "pf-anchor": async () => ((await flushPf(deps, signal)) ? ["Removed the firewall rules from pf."] : []),
    "pf-enable": async () => {
      const what = await releasePf(deps, signal);
      if (what === "none") return [];
      if (what === "released") return ["Gave back that pf was switched on."];
      return [
        "Left pf switched on until the next boot, without rules of higgs: how to give it back was not kept in time.",
      ];
    },
  };
}
