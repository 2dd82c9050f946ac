// Windows: every capability of a role by PowerShell, netsh and WireGuard for Windows. Written from their documentation, and never run there.
import { join } from "node:path";
import type { IpAddress } from "../base/ip.ts";
import type { Service } from "../base/service.ts";
import type { Role } from "../proto/role.ts";
import { listWindowsChanges } from "./changes-windows.ts";
import { bridgeDiscovery } from "./discovery/bridge.ts";
import { windowsDns } from "./dns/windows.ts";
import { type Exec, findTool, systemExec, toolMissing } from "./exec.ts";
import { noConnectionLog, noRedirect } from "./firewall/unfiltered.ts";
import {
  closingName,
  PROFILES,
  profileName,
  readWindowsFirewall,
  windowsClientFirewall,
} from "./firewall/windows-client.ts";
import { WINDOWS_TOOLS } from "./platform-tools.ts";
import { noExitOnWindows } from "./required-role.ts";
import { windowsNodeFirewall } from "./firewall/windows-node.ts";
import { forgivingJournal } from "./forgiving-journal.ts";
import { IDENTIFIERS } from "./identifiers.ts";
import { openJournal } from "./journal-file.ts";
import { loadBlocked } from "./lock.ts";
import type { LocalNetworks } from "./local-networks.ts";
import { addressesDiffer, polling } from "./polling.ts";
import { portMapper } from "./port-mapping/mapper.ts";
import { isElevated, requireElevated } from "./privileges.ts";
import { windowsClientRoutes, windowsPeerMtus } from "./routes/windows.ts";
import type {
  ClientLock,
  ClientSystem,
  MachineSystem,
  NodeSystem,
  StoppedOptions,
  SystemOptions,
  Systems,
} from "./system.ts";
import { undoWindows } from "./undo-windows.ts";
import { windowsWireGuard } from "./wg/windows.ts";
import { firewallGroup } from "./windows-names.ts";
import { readWindowsNetwork, windowsLinks, windowsLocalNetworks } from "./windows-network.ts";

interface WindowsParts {
  readonly exec?: Exec;
  /** higgs' own executable, which alone may reach the server past the tunnel. */
  readonly program?: string;
}

/** Takes part without an exit: `firewallTrouble` says why there can be none. Throws PrivilegeMissing and ToolMissing. */
async function node(options: SystemOptions, parts: WindowsParts): Promise<NodeSystem> {
  const { machine, deps } = await windows("node", options, parts);
  const trouble = noExitOnWindows();
  return {
    ...machine,
    firewallTrouble: trouble,
    // Nothing of a node's goes into its own tunnel but what is for its peers: no packet must be kept out of it.
    discovery: () => Promise.resolve(bridgeDiscovery(deps)),
    exitFirewall: windowsNodeFirewall(deps),
    connectionLog: noConnectionLog(trouble),
    enableForwarding: () => Promise.resolve([trouble.message]),
    restoreForwarding: () => Promise.resolve([]),
    fence: () => Promise.resolve({ fence4: [], fence6: [] }),
    foreignDrops: () => Promise.resolve([]),
    forgetPaths: () => Promise.resolve(),
  };
}

/** Throws PrivilegeMissing and ToolMissing; nothing was changed then. */
async function client(options: SystemOptions, parts: WindowsParts): Promise<ClientSystem> {
  const { machine, deps } = await windows("client", options, parts);
  const clientFirewall = windowsClientFirewall(deps);
  const systemDns = windowsDns(deps);
  const { exec, log, journal } = deps;
  const networks = (signal: AbortSignal): Promise<LocalNetworks> => localNetworks(exec, signal);
  return {
    ...machine,
    // No packet can be marked there: what discovery sends would enter the tunnel, so the WebSocket is the only path.
    discovery: () => Promise.resolve(null),
    clientFirewall,
    clientRoutes: windowsClientRoutes(deps),
    systemDns,
    watchRules: (onChange) =>
      polling(async (signal) => (await clientFirewall.verify(signal)).length > 0, { everyMs: RULES_MS, onChange, log }),
    watchDns: nothingToWatch,
    async resetDnsOfEarlierBoot(signal) {
      // The rule for every name is in the registry; its servers answered in a tunnel that no boot brings back.
      if (journal.owner !== null && !journal.owner.sameBoot) await systemDns.reset(signal);
    },
    localNetworks: networks,
    block: (lockdown, signal) => loadBlocked({ log, networks, firewall: clientFirewall }, lockdown, signal),
  };
}

/** `parts`: what a test gives instead of the real machine. */
export function windowsSystemsWith(parts: WindowsParts = {}): Systems {
  const exec = parts.exec ?? systemExec();
  const program = parts.program ?? process.execPath;
  return {
    node: (options) => node(options, parts),
    client: (options) => client(options, parts),
    machine: async (role, options) => (await windows(role, options, parts, [])).machine,
    clientLock: (options) => clientLock(options, { exec, program }),
    changesByName: (role, stateDir, signal) =>
      listWindowsChanges(role, { exec, journal: { entries: () => [] }, stateDir, signal }),
    async removeAll(role, { stateDir, log }, signal) {
      const journal = forgivingJournal({ path: join(stateDir, "journal.json"), role, log });
      await journal.open();
      return await undoWindows(role, { exec, journal, log, stateDir, program, signal, unlock: true });
    },
    closing: [closingName(firewallGroup("client")), ...PROFILES.map(profileName)],
  };
}

export const windowsSystems: Systems = windowsSystemsWith();

function clientLock(
  { stateDir, log }: StoppedOptions,
  { exec, program }: { readonly exec: Exec; readonly program: string },
): ClientLock {
  const group = firewallGroup("client");
  return {
    isLoaded: async (signal) =>
      (await readWindowsFirewall(exec, group, signal)).rules.some((rule) => rule.action === "Block"),
    async block(lockdown, signal) {
      const journal = forgivingJournal({ path: join(stateDir, "journal.json"), role: "client", log });
      await journal.open();
      const firewall = windowsClientFirewall({ exec, journal, log, group, program });
      await loadBlocked({ networks: (inner) => localNetworks(exec, inner), firewall, log }, lockdown, signal);
    },
  };
}

async function localNetworks(exec: Exec, signal: AbortSignal): Promise<LocalNetworks> {
  return windowsLocalNetworks(windowsLinks(await readWindowsNetwork(exec, signal)));
}

async function windows(
  role: Role,
  options: SystemOptions,
  parts: WindowsParts,
  tools: readonly string[] = WINDOWS_TOOLS,
) {
  if (parts.exec === undefined) for (const tool of tools) if (findTool(tool) === null) throw toolMissing(tool);
  const { log, stateDir } = options;
  const exec = parts.exec ?? systemExec();
  requireElevated(await isElevated(exec), options.command);
  const identifiers = IDENTIFIERS[role];
  const journal = await openJournal({ path: join(stateDir, "journal.json"), role, log });
  const program = parts.program ?? process.execPath;
  const deps = { exec, journal, identifiers, log, stateDir, program, group: firewallGroup(role) };
  const machine: MachineSystem = {
    identifiers,
    log,
    nftTrouble: null,
    firewallTrouble: null,
    wireGuard: windowsWireGuard(deps),
    discovery: () => Promise.resolve(null),
    redirect: noRedirect(),
    peerMtus: windowsPeerMtus(),
    mapPort: (wanted) => portMapper({ log }, { ...wanted, mark: identifiers.mark }),
    readLinks: async (signal) => windowsLinks(await readWindowsNetwork(exec, signal)),
    rulesBefore: () => Promise.resolve([]), // routes and their metrics alone decide there
    watchLinks: (onChange) => polling(addressesDiffer(), { everyMs: ADDRESSES_MS, onChange, log }),
    watchRules: nothingToWatch,
    watchSettings: nothingToWatch,
    verifySettings: () => Promise.resolve([]),
    changes: (signal) => listWindowsChanges(role, { exec, journal, stateDir, signal }),
    hasIpv6: async () => {
      const { interfaces } = await readWindowsNetwork(exec, AbortSignal.timeout(READ_TIMEOUT_MS));
      return interfaces.some(({ family, alias }) => family === "IPv6" && !alias.startsWith("Loopback"));
    },
    ping: (address, signal) => ping(exec, address, signal),
    undoAll: (signal) => undoWindows(role, { exec, journal, log, stateDir, program, signal }),
  };
  return { machine, deps };
}

const READ_TIMEOUT_MS = 60_000;
const ADDRESSES_MS = 2_000;
/** Each look at the firewall's rules starts PowerShell, which takes seconds of work. */
const RULES_MS = 30_000;

/** The roles look again every thirty seconds, and after each other event. */
function nothingToWatch(): Service {
  return { [Symbol.asyncDispose]: () => Promise.resolve() };
}

/** "time=12ms" and "time<1ms", in whatever language (learn.microsoft.com, windows-commands, ping: -n count, -w milliseconds). */
const PING_REPLY = /[=<]\s?(\d+)\s?ms/;

async function ping(exec: Exec, address: IpAddress, signal: AbortSignal): Promise<number | null> {
  const { code, stdout } = await exec.run(["ping", "-n", "1", "-w", "2000", address], { signal });
  const rttMs = code === 0 ? PING_REPLY.exec(stdout)?.[1] : undefined;
  return rttMs === undefined ? null : Number(rttMs);
}
