// Which platform this machine has: the choice of every capability's mechanism is made here, once.
import type { Role } from "../proto/role.ts";
import { noExitOnWindows } from "./firewall/windows-node.ts";
import { linuxSystems } from "./os-linux.ts";
import { macSystems, noMacNode } from "./os-macos.ts";
import { windowsSystems } from "./os-windows.ts";
import { type Platform, platformName, platformOf, requireAskedFor } from "./platform.ts";
import {
  type ClientSystem,
  type Consent,
  type MachineSystem,
  type NodeSystem,
  PlatformUnsupported,
  type SystemOptions,
  type Systems,
} from "./system.ts";

const SYSTEMS: Readonly<Record<Platform, Systems>> = {
  linux: linuxSystems,
  macos: macSystems(),
  windows: windowsSystems,
};

/** For what is neither a running role nor its clean-up. Throws PlatformUnsupported where no role can run. */
export function systemsHere(platform: Platform | null = platformOf()): Systems {
  const systems = platform === null ? undefined : SYSTEMS[platform];
  if (systems === undefined) throw unsupported("change the network of this machine");
  return systems;
}

/**
 * Before anything else, an invite that would be used up included; `exit`: a node that shall offer one. Throws PlatformUnsupported,
 * PlatformUntested, and where there is no exit, why.
 */
export function requireRole(
  role: Role,
  { untestedPlatform, exit }: Consent & { readonly exit?: unknown },
  platform: Platform | null = platformOf(),
): void {
  if (platform === "macos" && role === "node") throw noMacNode();
  if (platform === "windows" && role === "node" && exit === true) throw noExitOnWindows();
  requireAskedFor(platform, untestedPlatform, `run a ${role}`);
}

/**
 * Throws PlatformUnsupported, PlatformUntested, PrivilegeMissing, or ToolMissing for a tool that the platform needs; nothing was
 * changed then.
 */
export async function nodeSystem(
  options: SystemOptions & Consent,
  platform: Platform | null = platformOf(),
): Promise<NodeSystem> {
  requireRole("node", options, platform);
  return await systemsHere(platform).node(options);
}

/**
 * Throws as `nodeSystem`, for a firewall that does no work too, unless a person said `withoutFirewall`: then what is bound to another
 * interface passes beside the tunnel.
 */
export async function clientSystem(
  options: SystemOptions & Consent & { readonly withoutFirewall: boolean },
  platform: Platform | null = platformOf(),
): Promise<ClientSystem> {
  requireRole("client", options, platform);
  return await systemsHere(platform).client(options);
}

/**
 * For putting back what a role left, whichever it is; asks for nobody's consent. Throws PlatformUnsupported and PrivilegeMissing; what
 * a tool that is not there would have to undo is told by `undoAll`.
 */
export async function machineSystem(
  role: Role,
  options: SystemOptions,
  platform: Platform | null = platformOf(),
): Promise<MachineSystem> {
  return await systemsHere(platform).machine(role, options);
}

/** Throws PlatformUnsupported for what is there on Linux alone. `what` follows "Cannot". */
export function requireLinux(what: string): void {
  if (platformOf() !== "linux") throw unsupported(what);
}

function unsupported(what: string): PlatformUnsupported {
  return new PlatformUnsupported(`Cannot ${what} on ${platformName()}: only Linux is supported so far.`, {
    code: "platform-unsupported",
    remedy: "Run it on a Linux machine.",
  });
}
