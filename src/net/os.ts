// The operating system as one thing: every capability of a role on this machine, by the mechanism that the platform has.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import type { IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { Role } from "../proto/role.ts";
import type { SystemDns } from "./dns/system-dns.ts";
import { linuxDns } from "./dns/linux.ts";
import { watchResolved } from "./dns/watch-resolved.ts";
import { bridgeDiscovery } from "./discovery/bridge.ts";
import type { DiscoveryPort } from "./discovery/discovery.ts";
import { canShareByNft, nftDiscovery } from "./discovery/nft.ts";
import { type Exec, findTool, systemExec, ToolFailed, toolMissing } from "./exec.ts";
import type { ClientFirewall } from "./firewall/client.ts";
import type { ConnectionLog } from "./firewall/connection-log.ts";
import type { ExitFirewall } from "./firewall/exit.ts";
import { foreignDrops } from "./firewall/foreign.ts";
import { nftClientFirewall } from "./firewall/nft-client.ts";
import { nftConnectionLog } from "./firewall/nft-connection-log.ts";
import { nftExitFirewall } from "./firewall/nft-exit.ts";
import { removeTable } from "./firewall/nft.ts";
import { noConnectionLog, noRedirect, unfilteredClient, unfilteredNode } from "./firewall/unfiltered.ts";
import { type Change, listChanges } from "./changes.ts";
import { enableForwarding, type Fence, forwardingFence, type ForwardingWanted } from "./forwarding.ts";
import { IDENTIFIERS, type Identifiers } from "./identifiers.ts";
import { openJournal } from "./journal-file.ts";
import { type Links, readLinks } from "./links.ts";
import { type LocalNetworks, readLocalNetworks } from "./local-networks.ts";
import { loadBlocked } from "./lock.ts";
import type { Lockdown } from "./lockdown-file.ts";
import { nftRedirect } from "./nft-redirect.ts";
import { portMapper } from "./port-mapping/mapper.ts";
import type { PortMapper, PortMapperOptions } from "./port-mapping/port-mapping.ts";
import { readPrivileges, requireNetAdmin } from "./privileges.ts";
import type { Redirect } from "./redirect.ts";
import type { ClientRoutes } from "./routes/client-routes.ts";
import { hostMtus } from "./routes/host-mtus.ts";
import { linuxClientRoutes } from "./routes/linux.ts";
import type { PeerMtus } from "./routes/peer-mtu.ts";
import { linuxSysctl } from "./sysctl.ts";
import { undoAll } from "./undo.ts";
import { watchLinks } from "./watch-links.ts";
import { watchRules } from "./watch-rules.ts";
import { watchSettings } from "./watch-settings.ts";
import type { WireGuardDevice } from "./wg/device.ts";
import { linuxWireGuard } from "./wg/linux.ts";

/** What every role on a machine has. */
export interface MachineSystem {
  readonly identifiers: Identifiers;
  readonly log: Logger;
  readonly wireGuard: WireGuardDevice;
  /** How this machine shares WireGuard's port: asked once, before WireGuard's own port is settled. */
  readonly discovery: (signal: AbortSignal) => Promise<DiscoveryPort>;
  /** Why there are no firewall and no shared port here: nft is missing, or the kernel refuses its rules. Null where all is well. */
  readonly nftTrouble: HiggsError | null;
  readonly redirect: Redirect;
  readonly peerMtus: PeerMtus;
  /** `mark` is the role's own: what it says to the router goes past a full tunnel. */
  readonly mapPort: (options: Omit<PortMapperOptions, "mark">) => PortMapper;
  readonly readLinks: (signal: AbortSignal) => Promise<Links>;
  /** Calls `onChange` after each burst of changes to links, addresses, routes or rules. */
  readonly watchLinks: (onChange: () => void) => Service;
  /** Calls `onChange` after each burst of changes to the nft rules, our own too. */
  readonly watchRules: (onChange: () => void) => Service;
  /** Calls `onChange` when somebody else changed a kernel setting that the role had changed. */
  readonly watchSettings: (onChange: () => void) => Service;
  /** Which of those are not as the role set them, as sentences. */
  readonly verifySettings: () => Promise<readonly string[]>;
  /** All that bears the role's fixed names, and what its journal says. */
  readonly changes: (signal: AbortSignal) => Promise<readonly Change[]>;
  /** False where the kernel has IPv6 switched off. */
  readonly hasIpv6: () => Promise<boolean>;
  /** Round trip of one ICMP echo through the tunnel in milliseconds; null for no reply. Throws ToolMissing. */
  readonly ping: (address: IpAddress, signal: AbortSignal) => Promise<number | null>;
  /** Puts everything back that the role changed, by the journal and by fixed identifiers. Resolves with what it did, as sentences. */
  readonly undoAll: (signal: AbortSignal) => Promise<readonly string[]>;
}

export interface NodeSystem extends MachineSystem {
  readonly exitFirewall: ExitFirewall;
  readonly connectionLog: ConnectionLog;
  readonly enableForwarding: (wanted: ForwardingWanted) => Promise<readonly string[]>;
  /** Puts back what `enableForwarding` changed, also in an earlier process. */
  readonly restoreForwarding: () => Promise<readonly string[]>;
  readonly fence: (wanted: { readonly ipv6: boolean }) => Promise<Fence>;
  readonly foreignDrops: (signal: AbortSignal) => Promise<readonly string[]>;
  /** Takes away what an earlier process left of paths that this one does not look for. */
  readonly forgetPaths: (signal: AbortSignal) => Promise<void>;
}

export interface ClientSystem extends MachineSystem {
  readonly clientFirewall: ClientFirewall;
  readonly clientRoutes: ClientRoutes;
  readonly systemDns: SystemDns;
  /** Calls `onChange` after each burst of changes to the servers that systemd-resolved asks, our own too. */
  readonly watchDns: (onChange: () => void) => Service;
  /** After a boot nobody answers at the tunnel's name servers: puts the machine's own back that an earlier process replaced. */
  readonly resetDnsOfEarlierBoot: (signal: AbortSignal) => Promise<void>;
  readonly localNetworks: (signal: AbortSignal) => Promise<LocalNetworks>;
  /** Closes this machine, as a person decided. */
  readonly block: (lockdown: Lockdown, signal: AbortSignal) => Promise<void>;
}

export interface SystemOptions {
  readonly stateDir: string;
  readonly libexecDir: string;
  readonly wireGuard: "auto" | "kernel" | "carried" | "path";
  /** What the person typed, for the remedy of a missing privilege. */
  readonly command: string;
  readonly log: Logger;
}

export class PlatformUnsupported extends HiggsError {
  override readonly name = "PlatformUnsupported";
}

const TOOLS = ["ip", "wg"] as const;
const NFT_TIMEOUT_MS = 10_000;

/** Throws PlatformUnsupported, PrivilegeMissing, or ToolMissing for `ip` or `wg`; nothing was changed then. */
export async function nodeSystem(options: SystemOptions): Promise<NodeSystem> {
  const { machine, deps, sysctl } = await linux("node", options);
  const { exec, identifiers, journal, log } = deps;
  return {
    ...machine,
    exitFirewall: machine.nftTrouble === null ? nftExitFirewall(deps) : unfilteredNode({ sysctl }),
    connectionLog: machine.nftTrouble === null ? nftConnectionLog(deps) : noConnectionLog(machine.nftTrouble),
    enableForwarding: (wanted) => enableForwarding(wanted, { sysctl, log }),
    restoreForwarding: () => sysctl.restore(),
    fence: forwardingFence({ sysctl, journal }),
    foreignDrops: (signal) => foreignDrops(exec, identifiers, signal),
    async forgetPaths(signal) {
      if (machine.nftTrouble !== null) return;
      await machine.redirect.reset(signal);
      await removeTable(exec, { table: identifiers.demuxTable }, signal);
      await journal.remove({ kind: "demux-table" });
    },
  };
}

/**
 * Throws as `nodeSystem`, for an nft that does no work too, unless a person said `withoutFirewall`: then what is bound to another
 * interface passes beside the tunnel.
 */
export async function clientSystem(
  options: SystemOptions & { readonly withoutFirewall: boolean },
): Promise<ClientSystem> {
  const { machine, deps, sysctl } = await linux("client", options);
  if (machine.nftTrouble !== null && !options.withoutFirewall) throw machine.nftTrouble;
  const clientRoutes = linuxClientRoutes({ ...deps, sysctl });
  const systemDns = linuxDns({ ...deps, stateDir: options.stateDir });
  const { owner } = deps.journal;
  const { nftTrouble } = machine;
  const clientFirewall = nftTrouble === null ? nftClientFirewall(deps) : unfilteredClient(nftTrouble);
  return {
    ...machine,
    clientFirewall,
    clientRoutes,
    peerMtus: clientRoutes.peerMtus,
    systemDns,
    watchDns: (onChange) => watchResolved(onChange),
    async resetDnsOfEarlierBoot(signal) {
      // In the same boot the tunnel's routes are there still, and its name servers belong to them.
      if (owner !== null && !owner.sameBoot) await systemDns.reset(signal);
    },
    localNetworks: (signal) => readLocalNetworks(deps.exec, signal),
    block: (lockdown, signal) => loadBlocked({ ...deps, firewall: clientFirewall }, lockdown, signal),
  };
}

/**
 * For putting back what a role left, whichever it is. Throws PlatformUnsupported and PrivilegeMissing; what a tool that is not
 * there would have to undo is told by `undoAll`.
 */
export async function machineSystem(role: Role, options: SystemOptions): Promise<MachineSystem> {
  return (await linux(role, options, [])).machine;
}

/** Throws PlatformUnsupported where a role cannot run yet. */
export function requireLinux(role: Role | "server" | "demo"): void {
  if (process.platform === "linux") return;
  throw new PlatformUnsupported(
    `Cannot run ${role === "demo" ? "the demo" : `a ${role}`} on ${process.platform}: only Linux is supported so far.`,
    {
      code: "platform-unsupported",
      remedy: "Run it on a Linux machine.",
    },
  );
}

async function linux(role: Role, options: SystemOptions, tools: readonly string[] = TOOLS) {
  requireLinux(role);
  requireNetAdmin(await readPrivileges(), options.command);
  for (const tool of tools) if (findTool(tool) === null) throw toolMissing(tool);
  const { log, stateDir } = options;
  const exec = systemExec();
  const identifiers = IDENTIFIERS[role];
  const journal = await openJournal({ path: join(stateDir, "journal.json"), role, log });
  const sysctl = linuxSysctl({ journal, log });
  const deps = { exec, journal, identifiers, log };
  const nftTrouble = await troubleOfNft(exec, identifiers, AbortSignal.timeout(NFT_TIMEOUT_MS));
  const machine: MachineSystem = {
    identifiers,
    log,
    nftTrouble,
    wireGuard: linuxWireGuard({
      ...deps,
      libexecDir: options.libexecDir,
      ...(options.wireGuard === "auto" ? {} : { only: options.wireGuard }),
    }),
    discovery: async (signal) =>
      nftTrouble === null && (await canShareByNft(deps, signal)) ? nftDiscovery(deps) : bridgeDiscovery(deps),
    redirect: nftTrouble === null ? nftRedirect(deps) : noRedirect(),
    peerMtus: hostMtus(deps),
    mapPort: (wanted) => portMapper({ log }, { ...wanted, mark: identifiers.mark }),
    readLinks: (signal) => readLinks(exec, signal),
    watchLinks: (onChange) => watchLinks({ onChange, log }),
    watchRules: (onChange) => (nftTrouble === null ? watchRules({ onChange, log }) : nothingToWatch()),
    watchSettings: (onChange) => watchSettings(sysctl, { onChange }),
    verifySettings: () => sysctl.verify(),
    changes: (signal) => listChanges(role, { exec, journal, stateDir, signal, hasNft: nftTrouble === null }),
    hasIpv6,
    ping: (address, signal) => ping(exec, { address, interface: identifiers.interface }, signal),
    undoAll: (signal) => undoAll(role, { exec, journal, log, stateDir, signal }),
  };
  return { machine, deps, sysctl };
}

/** A table that is made and taken away in one transaction: nothing of it is ever in place. */
async function troubleOfNft(
  exec: Exec,
  { table }: Pick<Identifiers, "table">,
  signal: AbortSignal,
): Promise<HiggsError | null> {
  if (findTool("nft") === null) return toolMissing("nft");
  const trial = `${table}_trial`;
  const stdin = `table inet ${trial} {\n}\ndelete table inet ${trial}\n`;
  const { code, stderr } = await exec.run(["nft", "-f", "-"], { stdin, signal });
  if (code === 0) return null;
  return new ToolFailed(`Cannot use nft on this machine: ${stderr.trim().split("\n")[0] || `exit code ${code}`}.`, {
    code: "nft-unusable",
    remedy: "Load its part of the kernel (sudo modprobe nf_tables), and see whether this works: sudo nft list ruleset",
  });
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
