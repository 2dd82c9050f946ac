// The lease of an exit in iptables' words: an entry of xt_recent that a datagram of the node to itself makes young again.
import type { Family } from "../../base/ip.ts";
import { LEASE_MARK } from "../identifiers.ts";
import type { IptablesRule } from "./iptables-chains.ts";

/**
 * A datagram of the node to its own loopback, with a mark of its own, renews the lease or ends it: /proc/net/xt_recent is root's, and a
 * service has CAP_NET_ADMIN alone. The rule that takes it also drops it, so that the sender hears of it at once (EPERM).
 * RFC 863 discards at the first port, and nobody has the second.
 */
export const LEASE_PORTS = { renew: 9, close: 10 } as const;

export interface LeaseWords {
  readonly alive: string;
  readonly dead: string;
}

/**
 * The lease is the age of one entry, by the kernel's monotonic clock. Its list lives as long as a rule names it, through every
 * transaction that replaces those rules. `--reap`: what is too old goes, so that no counter that begins anew makes it young.
 */
export function leaseWords(of: {
  readonly family: Family;
  readonly prefix: string;
  readonly leaseS: number;
}): LeaseWords {
  const asked = `--rcheck --seconds ${of.leaseS} --reap ${listOf(of.family, of.prefix)}`;
  return { alive: `-m recent ${asked}`, dead: `-m recent ! ${asked}` };
}

/** For what this machine sends. */
export function leaseRules(family: Family, prefix: string): readonly IptablesRule[] {
  const ours = (port: number): string => `-o lo -p udp --dport ${port} -m mark --mark ${maskedMark(LEASE_MARK)}`;
  const list = listOf(family, prefix);
  return [
    { match: `${ours(LEASE_PORTS.renew)} -m recent --set ${list}`, target: "DROP", why: "the node renews its lease" },
    { match: `${ours(LEASE_PORTS.close)} -m recent --remove ${list}`, target: "DROP", why: "the node ends its lease" },
    // The match removes, and is true, only where there is an entry.
    { match: ours(LEASE_PORTS.close), target: "DROP", why: "which had ended" },
  ];
}

/** As iptables writes it. */
export function maskedMark({ mark, mask }: { readonly mark: number; readonly mask: number }): string {
  return `0x${mark.toString(16)}/0x${mask.toString(16)}`;
}

/** Families have a list each, as an entry is of one family. The mask makes one entry of every address. */
function listOf(family: Family, prefix: string): string {
  return `--name ${prefix}lease${family} --mask ${family === 4 ? "0.0.0.0" : "::"} --rsource`;
}
