// Everything but some prefixes, as ranges of addresses: for a firewall whose refusals win over whatever allows.
import { type Cidr, cidrParts, type Family, familyOf, ipBytes, ipFromBytes } from "../../base/ip.ts";

/** In order: `a-b`, or one address where the two are the same. All of the family without prefixes; none where they cover it. */
export function rangesWithout(family: Family, prefixes: readonly Cidr[]): readonly string[] {
  const taken = prefixes
    .filter((prefix) => familyOf(prefix) === family)
    .map(boundsOf)
    .sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0));
  const last = (1n << BigInt(bitsOf(family))) - 1n;
  const found: string[] = [];
  let next = 0n;
  for (const { first, last: end } of taken) {
    if (first > next) found.push(rangeText(family, next, first - 1n));
    if (end >= next) next = end + 1n;
  }
  if (next <= last) found.push(rangeText(family, next, last));
  return found;
}

function boundsOf(prefix: Cidr): { readonly first: bigint; readonly last: bigint } {
  const { address, length } = cidrParts(prefix);
  const first = BigInt(`0x${ipBytes(address).toHex()}`);
  return { first, last: first + (1n << BigInt(bitsOf(familyOf(prefix)) - length)) - 1n };
}

function rangeText(family: Family, first: bigint, last: bigint): string {
  return first === last ? addressText(family, first) : `${addressText(family, first)}-${addressText(family, last)}`;
}

/** A bound may be an IPv4-mapped address, which must be written as IPv6 here. */
function addressText(family: Family, value: bigint): string {
  const hex = value.toString(16).padStart(bitsOf(family) / 4, "0");
  const address = ipFromBytes(Uint8Array.fromHex(hex)) ?? "";
  if (family === 4 || address.includes(":")) return address;
  return (hex.match(/.{4}/g) ?? []).map((group) => group.replace(/^0{1,3}/, "")).join(":");
}

function bitsOf(family: Family): 32 | 128 {
  return family === 4 ? 32 : 128;
}
