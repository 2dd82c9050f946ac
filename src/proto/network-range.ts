// Which prefixes may be a network's ranges: private ones, no wider than one site, so that no server claims the internet's addresses.
import { type Cidr, cidrContains, cidrParts, familyOf } from "../base/ip.ts";

/** RFC 1918. Carrier-grade NAT's 100.64.0.0/10 (RFC 6598) is none: a provider may use it on the very line that a machine is on. */
export const PRIVATE4: readonly Cidr[] = ["10.0.0.0/8" as Cidr, "172.16.0.0/12" as Cidr, "192.168.0.0/16" as Cidr];
/** RFC 4193. */
const PRIVATE6 = "fc00::/7" as Cidr;
export const WIDEST4 = 16;
/** RFC 4193 section 3: one site's share. */
const WIDEST6 = 48;

export function isNetworkRange(range: Cidr): boolean {
  const { address, length } = cidrParts(range);
  if (familyOf(range) === 6) return length >= WIDEST6 && cidrContains(PRIVATE6, address);
  return length >= WIDEST4 && PRIVATE4.some((wide) => cidrContains(wide, address));
}
