// Puts everything back that a role changed on Linux: how each kind of change is undone, and in which order.
import type { Logger } from "../base/log.ts";
import type { Role } from "../proto/role.ts";
import { RESOLV_CONF, type Restored, restoreNames } from "./dns/file-dns.ts";
import { restoreResolvConf } from "./dns/resolv-conf.ts";
import { askHelper, needsHelper } from "./dns/resolv-conf-helper.ts";
import { restoreForHelper } from "./dns/resolv-conf-request.ts";
import { makeResolvedRead, revertResolved } from "./dns/resolved.ts";
import { type Exec, ToolFailed, ToolMissing } from "./exec.ts";
import { findClientFirewall } from "./firewall/client-mechanism.ts";
import { removeTable } from "./firewall/nft.ts";
import { removeChains } from "./firewall/iptables.ts";
import { IDENTIFIERS } from "./identifiers.ts";
import type { Journal, LinuxUndoEntry } from "./journal.ts";
import { readLocalNetworks } from "./local-networks.ts";
import { loadBlocked } from "./lock.ts";
import { type Lockdown, OPEN, readLockdown } from "./lockdown-file.ts";
import { tryEach } from "./remove-listed.ts";
import { removeRulesAndRoutes } from "./routes/linux.ts";
import { linuxSysctl } from "./sysctl.ts";
import type { WireGuardHost } from "./wg/host.ts";
import { type Kind, runUndo, type Step, UndoIncomplete } from "./undo-steps.ts";
import { removeWireGuardDevice } from "./wg/linux.ts";

type LinuxKind = LinuxUndoEntry["kind"];

export interface UndoDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
  /** The role's state folder: the copy of resolv.conf is in it. */
  readonly stateDir: string;
  readonly signal: AbortSignal;
  /** Default /etc/resolv.conf. */
  readonly resolvConfPath?: string;
  /** Default /proc/sys. */
  readonly sysctlDir?: string;
  readonly host?: WireGuardHost;
  /** True: the kill switch goes too, which stays otherwise as long as it is on. */
  readonly unlock?: boolean;
}

/**
 * The order of a way down when no journal tells the order of the way up: names stop being asked through the tunnel first,
 * and the rules that keep traffic from passing outside go last.
 */
const ORDER: readonly LinuxKind[] = [
  "resolv-conf",
  "resolvconf-record",
  "resolved-link",
  "wireguard-device",
  "ip-rules",
  "ip-routes",
  "sysctl",
  "demux-table",
  "redirect-table",
  "log-table",
  "egress-table",
  "iptables-chains",
  "nft-table",
];

/**
 * Sentences of what was done, none when there was nothing; harmless twice. Throws UndoIncomplete after having tried everything.
 * A client's kill switch that is on is closed before anything else is put back, and stays.
 */
export async function undoAll(role: Role, deps: UndoDeps): Promise<readonly string[]> {
  const locked = role === "client" && deps.unlock !== true ? await readLockdown(deps.stateDir) : OPEN;
  return await runUndo(deps, {
    role,
    steps: stepsOf(role, deps),
    order: ORDER,
    kept: locked.lockdown ? { kinds: CLOSING, close: () => keepLocked(deps, locked) } : null,
    remedy: `sudo higgs state clean --role ${role}`,
    // What a missing tool would have to undo, it was never there to do.
    wasNeverThere: async (thrown, kind) =>
      thrown instanceof ToolMissing || (NFT_TABLES.includes(kind) && (await isNftUseless(thrown, deps))),
  });
}

const NFT_TABLES: readonly Kind[] = ["nft-table", "egress-table", "demux-table", "redirect-table", "log-table"];

/** What holds the kill switch. */
const CLOSING: readonly LinuxKind[] = ["nft-table", "egress-table", "iptables-chains"];

async function keepLocked(deps: UndoDeps, locked: Lockdown): Promise<string> {
  const { firewall } = await findClientFirewall({ ...deps, identifiers: IDENTIFIERS.client }, deps.signal);
  const networks = (signal: AbortSignal) => readLocalNetworks(deps.exec, signal);
  await loadBlocked({ ...deps, networks, firewall }, locked, deps.signal);
  return "Kept the kill switch, which is on: nothing leaves this machine. Off: sudo higgs client lockdown off";
}

/** On a kernel without nft's part, nothing of it can ever have been loaded. */
async function isNftUseless(thrown: unknown, { exec, signal }: UndoDeps): Promise<boolean> {
  return thrown instanceof ToolFailed && (await exec.run(["nft", "list", "tables"], { signal })).code !== 0;
}

function stepsOf(role: Role, deps: UndoDeps): Readonly<Record<LinuxKind, Step>> {
  const { exec, journal, log, stateDir, signal } = deps;
  const identifiers = IDENTIFIERS[role];
  const forgetting = async (kind: SimpleKind, sentences: readonly string[]): Promise<readonly string[]> => {
    await journal.remove({ kind });
    return sentences;
  };
  const path = deps.resolvConfPath ?? RESOLV_CONF;
  const routes: Step = async () => {
    const wereThere = await removeRulesAndRoutes(exec, identifiers, signal);
    await journal.remove({ kind: "ip-rules" });
    return forgetting("ip-routes", wereThere ? [`Removed the routing rules and routes of the ${role}.`] : []);
  };
  const names: Step = async (isJournaled) => {
    // A node sets none: what bears our marker or our fixed names is a client's, which may be connected.
    if (role === "node" && !isJournaled) return [];
    const makeRead = (): Promise<void> => makeResolvedRead(exec, signal);
    if (needsHelper()) return (await askHelper({ reset: true }, signal)) ? [`Put ${path} back.`] : [];
    const isOnlyOne = role === "client" && path === RESOLV_CONF; // what bears our fixed names belongs to this machine's file
    const own = isOnlyOne || journal.entries().some(({ kind }) => kind === "resolvconf-record");
    const at = { exec, stateDir, journal, log, path, makeRead, identifiers };
    const helpers = (): Promise<Restored> => restoreForHelper({ exec, log, makeRead }, signal);
    const ours = async (): Promise<Restored> =>
      own ? await restoreNames(at, signal) : { file: await restoreResolvConf(at, signal), record: false };
    const restored = await tryEach(isOnlyOne ? [helpers, ours] : [ours], (restore) => restore());
    return [
      ...(restored.some(({ file }) => file) ? [`Put ${path} back.`] : []),
      ...(restored.some(({ record }) => record)
        ? [`Took the DNS servers of ${identifiers.interface} out of resolvconf.`]
        : []),
    ];
  };
  const table =
    (kind: "demux-table" | "redirect-table" | "log-table", name: string): Step =>
    async () => {
      const wasThere = await removeTable(exec, { table: name }, signal);
      return forgetting(kind, wasThere ? [`Removed the table inet ${name}.`] : []);
    };
  return {
    "resolv-conf": names,
    "resolvconf-record": names,
    "resolved-link": async (isJournaled) => {
      const reverted = await revertResolved(exec, identifiers, signal);
      const sentence = `Took the DNS servers off ${identifiers.interface} in systemd-resolved.`;
      return forgetting("resolved-link", reverted && isJournaled ? [sentence] : []);
    },
    "wireguard-device": async () => {
      const host = deps.host === undefined ? {} : { host: deps.host };
      const wasThere = await removeWireGuardDevice({ exec, identifiers, log, ...host }, signal);
      return forgetting("wireguard-device", wasThere ? [`Removed the WireGuard device ${identifiers.interface}.`] : []);
    },
    "ip-rules": routes,
    "ip-routes": routes,
    sysctl: async () => {
      const rootDir = deps.sysctlDir === undefined ? {} : { rootDir: deps.sysctlDir };
      const sentences = await linuxSysctl({ journal, log, ...rootDir }).restore();
      if (!journal.entries().some((entry) => entry.kind === "sysctl")) return sentences;
      throw new UndoIncomplete(sentences.join(" "), { code: "undo-incomplete" });
    },
    "egress-table": async () => {
      const name = identifiers.egressTable;
      const wasThere = await removeTable(exec, { table: name, family: "netdev" }, signal);
      return forgetting("egress-table", wasThere ? [`Removed the table netdev ${name}.`] : []);
    },
    "iptables-chains": async () => {
      const wereThere = await removeChains(exec, identifiers.chainPrefix, signal);
      return forgetting(
        "iptables-chains",
        wereThere ? [`Removed the iptables chains ${identifiers.chainPrefix}*.`] : [],
      );
    },
    "demux-table": table("demux-table", identifiers.demuxTable),
    "redirect-table": table("redirect-table", identifiers.redirectTable),
    "log-table": table("log-table", identifiers.logTable),
    "nft-table": async () => {
      const wasThere = await removeTable(exec, identifiers, signal);
      return forgetting("nft-table", wasThere ? [`Removed the firewall table inet ${identifiers.table}.`] : []);
    },
  };
}

/** Entries that say nothing beyond their kind. */
type SimpleKind = Exclude<LinuxKind, "sysctl" | "resolv-conf">;
