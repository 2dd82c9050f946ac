// Which platform this machine has: the choice of every capability's mechanism is made here, once.
import type { Role } from "../proto/role.ts";
import { type Platform, platformName, platformOf } from "./platform.ts";
import { requireRole } from "./required-role.ts";
import {
  type ClientSystem,
  type Consent,
  type MachineSystem,
  type NodeSystem,
  PlatformUnsupported,
  type SystemOptions,
  type Systems,
} from "./system.ts";

/** Read when it is asked for: what is another platform's costs no memory here. */
const SYSTEMS: Readonly<Record<Platform, () => Promise<Systems>>> = {
  linux: async () => (await import("./os-linux.ts")).linuxSystems,
  macos: async () => (await import("./os-macos.ts")).macSystems(),
  windows: async () => (await import("./os-windows.ts")).windowsSystems,
};

/** For what is neither a running role nor its clean-up. Throws PlatformUnsupported where no role can run. */
export async function systemsHere(platform: Platform | null = platformOf()): Promise<Systems> {
  if (platform === null) throw unsupported("change the network of this machine");
  return await SYSTEMS[platform]();
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
  return await (await systemsHere(platform)).node(options);
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
  return await (await systemsHere(platform)).client(options);
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
  return await (await systemsHere(platform)).machine(role, options);
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
