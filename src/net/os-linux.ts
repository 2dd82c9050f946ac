// Linux: every capability of a role by ip, wg, nft, /proc/sys and the resolver that is there.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { linuxDns } from "./dns/linux.ts";
import { watchNames } from "./dns/watch-names.ts";
import { bridgeDiscovery } from "./discovery/bridge.ts";
import { canShareByNft, nftDiscovery } from "./discovery/nft.ts";
import { forgetTables, SHARING } from "./discovery/earlier-tables.ts";
import { type Exec, findTool, systemExec, ToolFailed, ToolMissing, toolMissing } from "./exec.ts";
import { clientFirewallBy, findClientFirewall } from "./firewall/client-mechanism.ts";
import { exitBy } from "./firewall/exit-mechanism.ts";
import { type ChainsOf, hasIptables, listChains } from "./firewall/iptables.ts";
import { rawFramesPass } from "./firewall/iptables-client.ts";
import { clientTrial } from "./firewall/iptables-client-chains.ts";
import { exitTrial } from "./firewall/iptables-exit-chains.ts";
import { findMechanism, hasIpv6Packets, troubleOfNft } from "./firewall/mechanism.ts";
import { nftConnectionLog } from "./firewall/nft-connection-log.ts";
import { removingWithoutNft } from "./firewall/netlink-table.ts";
import { readTable } from "./firewall/nft.ts";
import { noConnectionLog, noRedirect } from "./firewall/unfiltered.ts";
import { forgivingJournal } from "./forgiving-journal.ts";
import { listChanges } from "./changes.ts";
import { enableForwarding, forwardingFence } from "./forwarding.ts";
import { IDENTIFIERS } from "./identifiers.ts";
import { openJournal } from "./journal-file.ts";
import { readLinks } from "./links.ts";
import { readLocalNetworks } from "./local-networks.ts";
import { loadBlocked } from "./lock.ts";
import { nftRedirect } from "./nft-redirect.ts";
import { portMapper } from "./port-mapping/mapper.ts";
import { readPrivileges, requireNetAdmin } from "./privileges.ts";
import { hostMtus } from "./routes/host-mtus.ts";
import { linuxClientRoutes } from "./routes/linux.ts";
import { placeOf, rulesBefore, ruleSentence } from "./routes/rules-before.ts";
import { linuxSysctl } from "./sysctl.ts";
import { undoAll } from "./undo.ts";
import { watchChains } from "./watch-chains.ts";
import { watchLinks } from "./watch-links.ts";
import { watchRules } from "./watch-rules.ts";
import { watchSettings } from "./watch-settings.ts";
import { linuxWireGuard } from "./wg/linux.ts";
import type { IpAddress } from "../base/ip.ts";
import type { Service } from "../base/service.ts";
import type { Role } from "../proto/role.ts";
import type {
  ClientLock,
  ClientSystem,
  MachineSystem,
  NodeSystem,
  StoppedOptions,
  SystemOptions,
  Systems,
} from "./system.ts";

const TOOLS = ["ip", "wg"] as const;
const FIREWALL_TIMEOUT_MS = 10_000;

/** What a role's chains of iptables need of the kernel. */
const TRIALS: Readonly<Record<Role, ChainsOf>> = {
  client: (family) => clientTrial(family, IDENTIFIERS.client),
  node: exitTrial(IDENTIFIERS.node),
};

/** Throws PrivilegeMissing, or ToolMissing for `ip` or `wg`; nothing was changed then. */
async function node(options: SystemOptions): Promise<NodeSystem> {
  const { machine, mechanism, deps, sysctl } = await linux("node", options);
  const { journal, log } = deps;
  const exit = exitBy(mechanism, { ...deps, sysctl });
  return {
    ...machine,
    exitFirewall: exit.firewall,
    connectionLog: machine.nftTrouble === null ? nftConnectionLog(deps) : noConnectionLog(machine.nftTrouble),
    enableForwarding: (wanted) => enableForwarding(wanted, { sysctl, log }),
    restoreForwarding: () => sysctl.restore(),
    fence: forwardingFence({ sysctl, journal }),
    foreignDrops: exit.foreignDrops,
    async forgetPaths(signal) {
      if (machine.nftTrouble === null) await machine.redirect.reset(signal);
      await forgetTables({ ...deps, nftTrouble: machine.nftTrouble }, SHARING, signal);
    },
  };
}

/**
 * Throws as `node`, also where neither nft nor iptables does any work, unless a person said `withoutFirewall`: then what is bound to
 * another interface passes beside the tunnel.
 */
async function client(options: SystemOptions & { readonly withoutFirewall: boolean }): Promise<ClientSystem> {
  const { machine, mechanism, deps, sysctl } = await linux("client", options);
  if (mechanism.kind === "none" && !options.withoutFirewall) throw mechanism.trouble;
  const clientRoutes = linuxClientRoutes({ ...deps, sysctl });
  const systemDns = linuxDns({ ...deps, stateDir: options.stateDir });
  const { owner } = deps.journal;
  const localNetworks = (signal: AbortSignal) => readLocalNetworks(deps.exec, signal);
  const clientFirewall = clientFirewallBy(mechanism, deps);
  return {
    ...machine,
    clientFirewall,
    ...(mechanism.kind === "iptables" ? { paranoidTrouble: rawFramesPass() } : {}),
    clientRoutes,
    peerMtus: clientRoutes.peerMtus,
    systemDns,
    watchDns: (onChange) => watchNames(onChange),
    async resetDnsOfEarlierBoot(signal) {
      // In the same boot the tunnel's routes are there still, and its name servers belong to them.
      if (owner !== null && !owner.sameBoot) await systemDns.reset(signal);
    },
    localNetworks,
    block: (lockdown, signal) =>
      loadBlocked({ ...deps, networks: localNetworks, firewall: clientFirewall }, lockdown, signal),
  };
}

/** Without a client's process. The journal may be unreadable, its disk full: the machine is closed all the same. */
function clientLock({ stateDir, log }: StoppedOptions): ClientLock {
  const exec = removingWithoutNft(systemExec());
  const identifiers = IDENTIFIERS.client;
  const journal = forgivingJournal({ path: join(stateDir, "journal.json"), role: "client", log });
  const find = (signal: AbortSignal) => findClientFirewall({ exec, identifiers, log, journal }, signal);
  return {
    isLoaded: (signal) => isLockLoaded(exec, signal),
    async trouble({ paranoid }, signal) {
      const { mechanism } = await find(signal);
      if (mechanism.kind === "none") return mechanism.trouble;
      return mechanism.kind === "iptables" && paranoid ? rawFramesPass() : null;
    },
    async block(lockdown, signal) {
      await journal.open();
      const { firewall } = await find(signal);
      await loadBlocked({ networks: (inner) => readLocalNetworks(exec, inner), firewall, log }, lockdown, signal);
    },
  };
}

/** By whichever mechanism. Throws where this user may not know. */
async function isLockLoaded(exec: Exec, signal: AbortSignal): Promise<boolean> {
  const { table, chainPrefix } = IDENTIFIERS.client;
  try {
    if ((await readTable(exec, table, signal)) !== null) return true;
  } catch (thrown) {
    const isUseless = thrown instanceof ToolMissing || thrown instanceof ToolFailed;
    if (!isUseless || !(await readPrivileges()).netAdmin || !hasIptables()) throw thrown;
  }
  return (await listChains(exec, chainPrefix, signal)).length > 0;
}

export const linuxSystems: Systems = {
  node,
  client,
  machine: async (role, options) => (await linux(role, options, [])).machine,
  clientLock,
  async changesByName(role, stateDir, signal) {
    const exec = systemExec();
    // Whoever may not ask is told so by the listing itself.
    const { netAdmin } = await readPrivileges();
    const hasNft = !netAdmin || (await troubleOfNft(exec, IDENTIFIERS[role], signal)) === null;
    return await listChanges(role, { exec, journal: { entries: () => [] }, stateDir, signal, hasNft });
  },
  async removeAll(role, { stateDir, log }, signal) {
    const journal = forgivingJournal({ path: join(stateDir, "journal.json"), role, log });
    await journal.open();
    const exec = removingWithoutNft(systemExec());
    return await undoAll(role, { exec, journal, log, stateDir, signal, unlock: true });
  },
  closing: [`nft table inet ${IDENTIFIERS.client.table}`, `nft table netdev ${IDENTIFIERS.client.egressTable}`],
  closingInstead: ["iptables", ...(hasIpv6Packets() ? ["ip6tables"] : [])].map(
    (command) => `${command} chains ${IDENTIFIERS.client.chainPrefix}* of filter`,
  ),
};

async function linux(role: Role, options: SystemOptions, tools: readonly string[] = TOOLS) {
  requireNetAdmin(await readPrivileges(), options.command);
  for (const tool of tools) if (findTool(tool) === null) throw toolMissing(tool);
  const { log, stateDir } = options;
  const exec = removingWithoutNft(systemExec());
  const identifiers = IDENTIFIERS[role];
  const journal = await openJournal({ path: join(stateDir, "journal.json"), role, log });
  const sysctl = linuxSysctl({ journal, log });
  const deps = { exec, journal, identifiers, log };
  const mechanism = await findMechanism(
    exec,
    { identifiers, trial: TRIALS[role] },
    AbortSignal.timeout(FIREWALL_TIMEOUT_MS),
  );
  const nftTrouble = mechanism.kind === "nft" ? null : mechanism.nftTrouble;
  const machine: MachineSystem = {
    identifiers,
    log,
    nftTrouble,
    firewallTrouble: mechanism.kind === "none" ? mechanism.trouble : null,
    wireGuard: linuxWireGuard({
      ...deps,
      libexecDir: options.libexecDir,
      ...(options.wireGuard === "auto" ? {} : { only: options.wireGuard }),
    }),
    async discovery(signal) {
      if (nftTrouble === null && (await canShareByNft(deps, signal))) return nftDiscovery(deps);
      await forgetTables({ ...deps, nftTrouble }, nftTrouble === null ? SHARING : [...SHARING, "log-table"], signal);
      return bridgeDiscovery(deps);
    },
    redirect: nftTrouble === null ? nftRedirect(deps) : noRedirect(),
    peerMtus: hostMtus(deps),
    mapPort: (wanted) => portMapper({ log }, { ...wanted, mark: identifiers.mark }),
    readLinks: (signal) => readLinks(exec, signal),
    rulesBefore: async (signal) => (await rulesBefore(exec, placeOf(identifiers), signal)).map(ruleSentence),
    watchLinks: (onChange) => watchLinks({ onChange, log }),
    watchRules(onChange) {
      if (mechanism.kind === "nft") return watchRules({ onChange, log });
      return mechanism.kind === "none" ? nothingToWatch() : watchChains(exec, mechanism.commands, { onChange, log });
    },
    watchSettings: (onChange) => watchSettings(sysctl, { onChange }),
    verifySettings: () => sysctl.verify(),
    changes: (signal) => listChanges(role, { exec, journal, stateDir, signal, hasNft: nftTrouble === null }),
    hasIpv6,
    ping: (address, signal) => ping(exec, { address, interface: identifiers.interface }, signal),
    undoAll: (signal, how) => undoAll(role, { exec, journal, log, stateDir, signal, unlock: how?.unlock ?? false }),
  };
  return { machine, mechanism, deps, sysctl };
}

function nothingToWatch(): Service {
  return { [Symbol.asyncDispose]: () => Promise.resolve() };
}

async function hasIpv6(): Promise<boolean> {
  try {
    return (await readFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", "utf8")).trim() === "0";
  } catch {
    return false; // the kernel was built or started without it
  }
}

const PING_REPLY = /time[=<]([\d.]+) ms/;

async function ping(
  exec: Exec,
  target: { readonly address: IpAddress; readonly interface: string },
  signal: AbortSignal,
): Promise<number | null> {
  if (findTool("ping") === null) throw toolMissing("ping");
  const argv = ["ping", "-n", "-c", "1", "-W", "2", "-I", target.interface, target.address] as const;
  const match = PING_REPLY.exec((await exec.run(argv, { signal })).stdout);
  const rttMs = z.coerce.number().safeParse(match?.[1]);
  return rttMs.success ? rttMs.data : null;
}
