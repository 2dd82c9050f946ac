// The operating system as one thing: every capability of a role on this machine, as interfaces with one file for each platform.
import { HiggsError } from "../base/errors.ts";
import type { Change } from "./changes.ts";
import type { Fence, ForwardingWanted } from "./forwarding.ts";
import type { Identifiers } from "./identifiers.ts";
import type { Links } from "./links.ts";
import type { LocalNetworks } from "./local-networks.ts";
import type { IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { Role } from "../proto/role.ts";
import type { MachineDns } from "./dns/system-dns.ts";
import type { DiscoveryPort } from "./discovery/discovery.ts";
import type { ClientFirewall } from "./firewall/client.ts";
import type { ConnectionLog } from "./firewall/connection-log.ts";
import type { ExitFirewall } from "./firewall/exit.ts";
import type { Lockdown } from "./lockdown-file.ts";
import type { PortMapper, PortMapperOptions } from "./port-mapping/port-mapping.ts";
import type { Redirect } from "./redirect.ts";
import type { ClientRoutes } from "./routes/client-routes.ts";
import type { PeerMtus } from "./routes/peer-mtu.ts";
import type { WireGuardDevice } from "./wg/device.ts";

/** What every role on a machine has. */
export interface MachineSystem {
  readonly identifiers: Identifiers;
  readonly log: Logger;
  readonly wireGuard: WireGuardDevice;
  /**
   * How this machine shares WireGuard's port: asked once, before WireGuard's own port is settled. Null where no packet of ours can be
   * kept out of a full tunnel but the carrier's: then the WebSocket is the only path.
   */
  readonly discovery: (signal: AbortSignal) => Promise<DiscoveryPort | null>;
  /** Why there is no shared port here: nft is missing, or the kernel refuses its rules. Null where all is well. */
  readonly nftTrouble: HiggsError | null;
  /** Why nothing can be closed or isolated here, by whatever mechanism. Null where all is well. */
  readonly firewallTrouble: HiggsError | null;
  readonly redirect: Redirect;
  readonly peerMtus: PeerMtus;
  /** `mark` is the role's own: what it says to the router goes past a full tunnel. */
  readonly mapPort: (options: Omit<PortMapperOptions, "mark">) => PortMapper;
  readonly readLinks: (signal: AbortSignal) => Promise<Links>;
  /** Others' routing rules that send everything their own way before the role's own are asked, as sentences. */
  readonly rulesBefore: (signal: AbortSignal) => Promise<readonly string[]>;
  /** Calls `onChange` after each burst of changes to links, addresses, routes or rules. */
  readonly watchLinks: (onChange: () => void) => Service;
  /** Calls `onChange` after each burst of changes to the firewall's rules, our own too. */
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
  /**
   * Puts everything back that the role changed, by the journal and by fixed identifiers. Resolves with what it did, as sentences. A kill
   * switch that is on by what is on disk stays, unless `unlock` says that it is off: the disk may not have taken that.
   */
  readonly undoAll: (signal: AbortSignal, how?: { readonly unlock: boolean }) => Promise<readonly string[]>;
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
  /** Why frames that bypass the IP layer cannot be stopped here; not there where they can, or where nothing can be closed at all. */
  readonly paranoidTrouble?: HiggsError;
  readonly clientRoutes: ClientRoutes;
  readonly systemDns: MachineDns;
  /** Calls `onChange` after each burst of changes to whom this machine asks for names, our own too. */
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

/** What a person said before a role may touch the machine. */
export interface Consent {
  /** That higgs was never run on this platform, where it was not. */
  readonly untestedPlatform: boolean;
}

/** The kill switch of a client that does not run. */
export interface ClientLock {
  /** True when the rules that close are there, whoever loaded them. Throws where this user may not know. */
  isLoaded(signal: AbortSignal): Promise<boolean>;
  /** Why what was decided cannot be held on this machine; not there where everything can. */
  trouble?(lockdown: Lockdown, signal: AbortSignal): Promise<HiggsError | null>;
  /** Closes this machine, needing neither a readable journal nor a network. */
  block(lockdown: Lockdown, signal: AbortSignal): Promise<void>;
}

export interface StoppedOptions {
  readonly stateDir: string;
  readonly log: Logger;
}

/** One platform, with one file for each (net/os-*.ts); asks for nobody's consent. Throws PlatformUnsupported for a role that cannot run there. */
export interface Systems {
  node(options: SystemOptions): Promise<NodeSystem>;
  client(options: SystemOptions & { readonly withoutFirewall: boolean }): Promise<ClientSystem>;
  machine(role: Role, options: SystemOptions): Promise<MachineSystem>;
  clientLock(options: StoppedOptions): ClientLock;
  /** What bears the role's fixed names, without its journal: changes nothing. */
  changesByName(role: Role, stateDir: string, signal: AbortSignal): Promise<readonly Change[]>;
  /** Takes everything of the role away, the kill switch too, also where its journal cannot be read or written. */
  removeAll(role: Role, options: StoppedOptions, signal: AbortSignal): Promise<readonly string[]>;
  /** How `changes` names what the kill switch has loaded, the first of them always. */
  readonly closing: readonly string[];
  /** What there is in place of that first one where its mechanism does no work: all of them. */
  readonly closingInstead?: readonly string[];
}

export class PlatformUnsupported extends HiggsError {
  override readonly name = "PlatformUnsupported";
}
