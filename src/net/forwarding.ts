// Lets the kernel forward packets for an exit, without losing the default route that a router advertised.
import { readdir } from "node:fs/promises";
import { errorText } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Journal, SysctlKey } from "./journal.ts";
import type { Sysctl } from "./sysctl.ts";

export interface ForwardingWanted {
  /** Interfaces with a default route. */
  readonly uplinks: readonly string[];
  readonly ipv6: boolean;
}

interface ForwardingDeps {
  readonly sysctl: Sysctl;
  readonly log: Logger;
}

export const FORWARD4 = "net.ipv4.ip_forward";
export const FORWARD6 = "net.ipv6.conf.all.forwarding";

/** Router advertisements are taken although the host forwards (kernel documentation, ip-sysctl, accept_ra). */
const TAKEN_WHILE_FORWARDING = "2";

/** Resolves with what is missing, as sentences; none when the wanted families are forwarded. Idempotent. */
export async function enableForwarding(wanted: ForwardingWanted, deps: ForwardingDeps): Promise<readonly string[]> {
  const missing: string[] = [];
  if (!(await set(FORWARD4, { value: "1", deps }))) {
    missing.push('IPv4 is not forwarded: "net.ipv4.ip_forward" cannot be set to 1.');
  }
  if (!wanted.ipv6) return missing;
  if ((await deps.sysctl.read(FORWARD6)) === null) {
    return [...missing, "IPv6 is not forwarded: this kernel has none."];
  }
  // First of all: forwarding makes the kernel throw away, at once and for good, the default route that it learnt so.
  for (const uplink of wanted.uplinks) {
    if (!(await keepAdvertisedRoute(uplink, deps))) {
      return [
        ...missing,
        `IPv6 is not forwarded: "net.ipv6.conf.${uplink}.accept_ra" cannot be set to 2, and the default route would be lost.`,
      ];
    }
  }
  if (!(await set(FORWARD6, { value: "1", deps }))) {
    missing.push('IPv6 is not forwarded: "net.ipv6.conf.all.forwarding" cannot be set to 1.');
  }
  return missing;
}

async function keepAdvertisedRoute(uplink: string, deps: ForwardingDeps): Promise<boolean> {
  const key: SysctlKey = `net.ipv6.conf.${uplink}.accept_ra`;
  if ((await deps.sysctl.read(key)) !== "1") return true;
  return set(key, { value: TAKEN_WHILE_FORWARDING, deps });
}

/** False when it could not be written and is not as wanted. */
async function set(key: SysctlKey, to: { readonly value: string; readonly deps: ForwardingDeps }): Promise<boolean> {
  const { sysctl, log } = to.deps;
  if ((await sysctl.read(key)) === to.value) return true;
  try {
    await sysctl.set(key, to.value);
    return true;
  } catch (thrown) {
    log.warn({ key, value: to.value, error: errorText(thrown) }, "cannot write a kernel setting");
    return false;
  }
}

/** Interfaces among which nothing is forwarded that is not ours, of each family; empty where the machine forwards anyway. */
export interface Fence {
  readonly fence4: readonly string[];
  readonly fence6: readonly string[];
}

interface FenceDeps {
  readonly sysctl: Pick<Sysctl, "read">;
  readonly journal: Journal;
  readonly interfaces?: () => Promise<readonly string[]>;
}

/**
 * For a machine that forwards for our sake alone, which must not become a router for everybody in its network. Asked before forwarding
 * is switched on and ever again: the interfaces are those of the first time, as one that comes later belongs to whoever made it.
 */
export function forwardingFence(deps: FenceDeps): (wanted: { readonly ipv6: boolean }) => Promise<Fence> {
  let names: readonly string[] | null = null;
  const among = async (key: SysctlKey): Promise<readonly string[]> =>
    (await forwardsForUs(key, deps)) ? (names ??= await (deps.interfaces ?? interfaceNames)()) : [];
  return async ({ ipv6 }) => {
    const isKnown6 = ipv6 || isJournaled(FORWARD6, deps.journal);
    return { fence4: await among(FORWARD4), fence6: isKnown6 ? await among(FORWARD6) : [] };
  };
}

/** True when it was we who switched a family's forwarding on, or when it is off and will be. */
export async function forwardsForUs(key: SysctlKey, deps: Pick<FenceDeps, "sysctl" | "journal">): Promise<boolean> {
  return isJournaled(key, deps.journal) || (await deps.sysctl.read(key)) !== "1";
}

function isJournaled(key: SysctlKey, journal: Journal): boolean {
  return journal.entries().some((entry) => entry.kind === "sysctl" && entry.key === key);
}

/** All but loopback, as they are now. */
export async function interfaceNames(): Promise<readonly string[]> {
  return (await readdir("/sys/class/net")).filter((name) => name !== "lo").toSorted();
}
