// Lets the kernel forward packets for an exit, without losing the default route that a router advertised.
import { errorText } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { SysctlKey } from "./journal.ts";
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

/** Router advertisements are taken although the host forwards (kernel documentation, ip-sysctl, accept_ra). */
const TAKEN_WHILE_FORWARDING = "2";

/** Resolves with what is missing, as sentences; none when the wanted families are forwarded. Idempotent. */
export async function enableForwarding(wanted: ForwardingWanted, deps: ForwardingDeps): Promise<readonly string[]> {
  const missing: string[] = [];
  if (!(await set("net.ipv4.ip_forward", { value: "1", deps }))) {
    missing.push('IPv4 is not forwarded: "net.ipv4.ip_forward" cannot be set to 1.');
  }
  if (!wanted.ipv6) return missing;
  if ((await deps.sysctl.read("net.ipv6.conf.all.forwarding")) === null) {
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
  if (!(await set("net.ipv6.conf.all.forwarding", { value: "1", deps }))) {
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
