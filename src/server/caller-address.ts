// Whose request it is: the connection's address, or what a trusted proxy says, and the key by which callers are counted.
import { type Cidr, cidrContains, familyOf, type IpAddress, ipBytes, parseIp } from "../base/ip.ts";
import { toHex } from "../base/bytes.ts";

/**
 * The address nearest to us that is no trusted proxy. `forwardedFor` is the X-Forwarded-For header: read from its end, since whatever
 * stands before the first address that a proxy of ours did not write may be forged.
 */
export function callerAddress(
  peer: string,
  forwardedFor: string | null,
  trustedProxies: readonly Cidr[],
): IpAddress | null {
  let address = parseIp(peer.replace(/%.*$/, ""));
  if (address === null || forwardedFor === null || trustedProxies.length === 0) return address;
  const hops = forwardedFor.split(",").reverse();
  for (const hop of hops.slice(0, 16)) {
    const trusted: IpAddress = address;
    if (!trustedProxies.some((proxy) => cidrContains(proxy, trusted))) return address;
    const next = parseIp(hop.trim());
    if (next === null) return address;
    address = next;
  }
  return address;
}

/** One caller for a rate limit: an IPv4 address, or the /64 of an IPv6 address, which one household has whole. */
export function limitKey(address: IpAddress | null): string {
  if (address === null) return "unknown";
  return familyOf(address) === 4 ? address : toHex(ipBytes(address).subarray(0, 8));
}
