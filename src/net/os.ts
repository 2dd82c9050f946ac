// Which platform this machine has: the choice of every capability's mechanism is made here, once.
import type { Role } from "../proto/role.ts";
import { linuxClientSystem, linuxMachineSystem, linuxNodeSystem } from "./os-linux.ts";
import {
  type ClientSystem,
  type MachineSystem,
  type NodeSystem,
  PlatformUnsupported,
  type SystemOptions,
} from "./system.ts";

/** Throws PlatformUnsupported, PrivilegeMissing, or ToolMissing for a tool that the platform needs; nothing was changed then. */
export async function nodeSystem(options: SystemOptions): Promise<NodeSystem> {
  requireLinux("node");
  return await linuxNodeSystem(options);
}

/**
 * Throws as `nodeSystem`, for a firewall that does no work too, unless a person said `withoutFirewall`: then what is bound to another
 * interface passes beside the tunnel.
 */
export async function clientSystem(
  options: SystemOptions & { readonly withoutFirewall: boolean },
): Promise<ClientSystem> {
  requireLinux("client");
  return await linuxClientSystem(options);
}

/**
 * For putting back what a role left, whichever it is. Throws PlatformUnsupported and PrivilegeMissing; what a tool that is not
 * there would have to undo is told by `undoAll`.
 */
export async function machineSystem(role: Role, options: SystemOptions): Promise<MachineSystem> {
  requireLinux(role);
  return await linuxMachineSystem(role, options);
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
