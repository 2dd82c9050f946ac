// Which connected prefixes may stay outside the tunnel: bridges without an uplink, and the private part of the LAN.
import type { Cidr } from "../../base/ip.ts";

/** Names of the bridges in `ip -j -d link` that lead nowhere but to containers and virtual machines of this host. */
export function bridgesWithoutUplink(
  links: unknown,
  options: { readonly uplinks?: readonly string[] } = {},
): readonly string[] {
  void links;
  void options;
  return [];
}

/** Of the connected prefixes those that a person may allow as "the LAN": private, and no larger than one site. */
export function allowedLanPrefixes(connected: readonly Cidr[]): readonly Cidr[] {
  void connected;
  return [];
}
