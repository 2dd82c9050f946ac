// macOS, written from its manuals and never run on it: a client by pf, route, ifconfig, scutil and a wireguard-go.
import { join } from "node:path";
import { z } from "zod";
import { familyOf, type IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { Role } from "../proto/role.ts";
import { MAC_CLOSING, macChanges } from "./changes-macos.ts";
import { scutilDns } from "./dns/scutil.ts";
import { type Exec, findTool, systemExec, ToolTimeout } from "./exec.ts";
import { hasPfRules, pfClientFirewall, pfTrouble } from "./firewall/pf-client.ts";
import { noRedirect, unfilteredClient } from "./firewall/unfiltered.ts";
import { forgivingJournal } from "./forgiving-journal.ts";
import { IDENTIFIERS } from "./identifiers.ts";
import { openJournal } from "./journal-file.ts";
import { macLinks, macNetworks, readShown } from "./links-macos.ts";
import { loadBlocked } from "./lock.ts";
import { watchMonitor } from "./monitor.ts";
import { polling } from "./polling.ts";
import { portMapper } from "./port-mapping/mapper.ts";
import { MAC_TOOLS, macToolMissing } from "./platform-tools.ts";
import { readPrivileges, requireNetAdmin } from "./privileges.ts";
import { noMacNode } from "./required-role.ts";
import { macClientRoutes } from "./routes/macos.ts";
import { checkMtus } from "./routes/peer-mtu.ts";
import type { ClientSystem, MachineSystem, SystemOptions, Systems } from "./system.ts";
import { blockMac, undoMac } from "./undo-macos.ts";
import { macWireGuardHost, type MacWireGuardHost, tunnelName } from "./wg/host-macos.ts";
import { macWireGuard } from "./wg/macos.ts";

/** What the adapters are of: the machine itself, or one that stands for it. */
export interface MacParts {
  readonly exec: Exec;
  readonly host: MacWireGuardHost;
  /** Throws PrivilegeMissing. */
  readonly requireRoot: (command: string) => Promise<void>;
  readonly hasTool: (tool: string) => boolean;
  /** How often rules and names are looked at. */
  readonly lookMs: number;
}

const PF_TIMEOUT_MS = 10_000;
/** Neither pf nor configd tells a program like this one what changed; they are looked at. */
const LOOK_MS = 5_000;

export function macSystems(parts: MacParts = realParts()): Systems {
  const { exec, host } = parts;
  return {
    node: () => Promise.reject(noMacNode()),
    client: (options) => client(parts, options),
    machine: async (role, options) => (await machine(parts, role, options)).machine,
    clientLock: ({ stateDir, log }) => ({
      isLoaded: (signal) => hasPfRules(exec, signal),
      trouble: (_lockdown, signal) => pfTrouble(exec, signal),
      async block(lockdown, signal) {
        const journal = forgivingJournal({ path: join(stateDir, "journal.json"), role: "client", log });
        await journal.open();
        await blockMac({ exec, host, journal, log }, lockdown, signal);
      },
    }),
    changesByName: (role, stateDir, signal) =>
      role === "client"
        ? macChanges({ exec, host, stateDir, signal, journal: { entries: () => [] } })
        : Promise.resolve([]),
    async removeAll(role, { stateDir, log }, signal) {
      const journal = forgivingJournal({ path: join(stateDir, "journal.json"), role, log });
      await journal.open();
      return await undoMac(role, { exec, host, journal, log, stateDir, signal, unlock: true });
    },
    closing: MAC_CLOSING,
  };
}

function realParts(): MacParts {
  return {
    exec: systemExec(),
    host: macWireGuardHost(),
    requireRoot: async (command) => requireNetAdmin(await readPrivileges(), command),
    hasTool: (tool) => findTool(tool) !== null,
    lookMs: LOOK_MS,
  };
}

async function client(
  parts: MacParts,
  options: SystemOptions & { readonly withoutFirewall: boolean },
): Promise<ClientSystem> {
  for (const tool of MAC_TOOLS) if (!parts.hasTool(tool)) throw macToolMissing(tool);
  const { machine: common, deps, firewallTrouble } = await machine(parts, "client", options);
  if (firewallTrouble !== null && !options.withoutFirewall) throw firewallTrouble;
  const { exec, host, log } = deps;
  const device = () => tunnelName(host);
  const clientFirewall =
    firewallTrouble === null ? pfClientFirewall({ ...deps, device }) : unfilteredClient(firewallTrouble);
  const systemDns = scutilDns(deps);
  const everyMs = parts.lookMs;
  const localNetworks = async (signal: AbortSignal) =>
    macNetworks(macLinks(await readShown(exec, signal), await device()));
  return {
    ...common,
    clientFirewall,
    clientRoutes: macClientRoutes({ ...deps, device }),
    systemDns,
    watchRules: (onChange) =>
      polling(async (signal) => (await clientFirewall.verify(signal)).length > 0, { onChange, log, everyMs }),
    watchDns: (onChange) => polling((signal) => systemDns.differs(signal), { onChange, log, everyMs }),
    resetDnsOfEarlierBoot: () => Promise.resolve(), // configd keeps it in memory
    localNetworks,
    block: (lockdown, signal) =>
      loadBlocked({ networks: localNetworks, firewall: clientFirewall, log }, lockdown, signal),
  };
}

async function machine({ exec, host, requireRoot, hasTool }: MacParts, role: Role, options: SystemOptions) {
  await requireRoot(options.command);
  const { log, stateDir } = options;
  const identifiers = IDENTIFIERS[role];
  const journal = await openJournal({ path: join(stateDir, "journal.json"), role, log });
  const deps = { exec, host, journal, log };
  const firewallTrouble = hasTool("pfctl")
    ? await pfTrouble(exec, AbortSignal.timeout(PF_TIMEOUT_MS))
    : macToolMissing("pfctl");
  const common: MachineSystem = {
    identifiers,
    log,
    // There is none to share a port by: nothing but the WebSocket is a path here, and nobody is told to install nft.
    nftTrouble: null,
    firewallTrouble,
    wireGuard: macWireGuard({
      ...deps,
      libexecDir: options.libexecDir,
      ...(options.wireGuard === "auto" ? {} : { only: options.wireGuard }),
    }),
    // A route past the tunnel is one host's for every program, and candidates are many: the carrier alone goes past it.
    discovery: () => Promise.resolve(null),
    redirect: noRedirect(),
    peerMtus: {
      apply(peers) {
        checkMtus(peers);
        return Promise.resolve(); // the WebSocket takes every size
      },
    },
    mapPort: (wanted) => portMapper({ log }, { ...wanted, mark: identifiers.mark }),
    readLinks: async (signal) => macLinks(await readShown(exec, signal), await tunnelName(host)),
    rulesBefore: () => Promise.resolve([]), // routes alone decide there
    watchLinks: (onChange) => watchRouting({ onChange, log }),
    watchRules: nothingToWatch,
    watchSettings: nothingToWatch,
    verifySettings: () => Promise.resolve([]),
    changes: (signal) =>
      role === "client" ? macChanges({ exec, host, journal, stateDir, signal }) : Promise.resolve([]),
    hasIpv6: () => Promise.resolve(true),
    ping: (address, signal) => ping(exec, address, signal),
    undoAll: (signal, how) =>
      undoMac(role, { exec, host, journal, log, stateDir, signal, unlock: how?.unlock ?? false }),
  };
  return { machine: common, deps, firewallTrouble };
}

/** route(8), "monitor": prints each change of routes, addresses and interfaces. */
function watchRouting(options: { readonly onChange: () => void; readonly log: Logger }): Service {
  return watchMonitor({ argv: ["route", "-n", "monitor"], of: "links", burstMs: 200 }, options);
}

function nothingToWatch(): Service {
  return { [Symbol.asyncDispose]: () => Promise.resolve() };
}

const PING_MS = 3_000;
const PING_REPLY = /time[=<]([\d.]+) ms/;

async function ping(exec: Exec, address: IpAddress, signal: AbortSignal): Promise<number | null> {
  // ping(8): -n numbers, -c how many, -W milliseconds to wait; ping6(8) has no -W, and is ended.
  const argv =
    familyOf(address) === 4
      ? (["ping", "-n", "-c", "1", "-W", "2000", address] as const)
      : (["ping6", "-n", "-c", "1", address] as const);
  try {
    const match = PING_REPLY.exec((await exec.run(argv, { signal, timeoutMs: PING_MS })).stdout);
    const rttMs = z.coerce.number().safeParse(match?.[1]);
    return rttMs.success ? rttMs.data : null;
  } catch (thrown) {
    if (thrown instanceof ToolTimeout) return null;
    throw thrown;
  }
}
