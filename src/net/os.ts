// Which platform this machine has: the choice of every capability's mechanism is made here, once.
import type { Role } from "../proto/role.ts";
import { linuxSystems } from "./os-linux.ts";
import { macSystems } from "./os-macos.ts";
import { windowsSystems } from "./os-windows.ts";
import { type Platform, platformOf, requireAskedFor } from "./platform.ts";
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
  if (systems === undefined) throw unsupported("client");
  return systems;
}

/**
 * Throws PlatformUnsupported, PlatformUntested, PrivilegeMissing, or ToolMissing for a tool that the platform needs; nothing was
 * changed then.
 */
export async function nodeSystem(
  options: SystemOptions & Consent,
  platform: Platform | null = platformOf(),
): Promise<NodeSystem> {
  requireAskedFor(platform, options.untestedPlatform, "run a node");
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
  requireAskedFor(platform, options.untestedPlatform, "run a client");
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

/** Throws PlatformUnsupported for what is there on Linux alone. */
export function requireLinux(what: Role | "server" | "demo"): void {
  if (platformOf() !== "linux") throw unsupported(what);
}

function unsupported(what: Role | "server" | "demo"): PlatformUnsupported {
  return new PlatformUnsupported(
    `Cannot run ${what === "demo" ? "the demo" : `a ${what}`} on ${process.platform}: only Linux is supported so far.`,
    {
      code: "platform-unsupported",
      remedy: "Run it on a Linux machine.",
    },
  );
}
