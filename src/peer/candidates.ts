// Where this machine may be reached, and which of the peer's words on the same are worth a packet: pure.
import {
  type Cidr,
  cidrContains,
  type Endpoint,
  familyOf,
  formatEndpoint,
  type IpAddress,
  parseCidr,
  parseEndpoint,
} from "../base/ip.ts";
import type { Links, LocalAddress } from "../net/links.ts";
import { type Candidate, MOST_CANDIDATES } from "../proto/path.ts";
import { type PathTarget, type Place, placeKey } from "./path-info.ts";

export interface Gathered {
  readonly links: Links;
  /** WireGuard's port, which the world sees as this machine's. */
  readonly port: number;
  /** As STUN servers saw it, the same one once. */
  readonly reflexive: readonly Endpoint[];
  /** By PCP, NAT-PMP or UPnP. */
  readonly mapped: readonly Endpoint[];
  /** Forwarded by hand; a name was resolved before. */
  readonly manual: readonly Endpoint[];
}

/** What people set by hand first, then what costs least; at most 16. */
export function ownCandidates(gathered: Gathered): Candidate[] {
  const { links, port, reflexive, mapped, manual } = gathered;
  const hosts = links.addresses
    .filter((entry) => entry.scope === "global" && !entry.deprecated && !entry.tentative)
    // Of IPv6, the lasting address before the privacy ones: both work, and the list is short.
    .toSorted((a, b) => Number(a.temporary) - Number(b.temporary))
    .map(({ address }) => ({ address, port }));
  const all: Candidate[] = [
    ...manual.map((endpoint) => ({ kind: "manual" as const, endpoint: formatEndpoint(endpoint) })),
    ...mapped.map((endpoint) => ({ kind: "mapped" as const, endpoint: formatEndpoint(endpoint) })),
    ...reflexive.map((endpoint) => ({ kind: "reflexive" as const, endpoint: formatEndpoint(endpoint) })),
    ...hosts.map((endpoint) => ({ kind: "host" as const, endpoint: formatEndpoint(endpoint) })),
  ];
  const seen = new Set<string>();
  return all.filter(({ endpoint }) => !seen.has(endpoint) && seen.add(endpoint)).slice(0, MOST_CANDIDATES);
}

/** Never a peer's address: this host, nobody, everybody, and links that a router does not leave. */
const NEVER: readonly Cidr[] = [
  "0.0.0.0/8",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "224.0.0.0/3",
  "::/80", // the unspecified address, loopback, and IPv4 in the clothes of IPv6
  "fe80::/10",
  "ff00::/8",
].flatMap((text) => parseCidr(text) ?? []);

export interface Refused {
  readonly links: Links;
  /** The network's own ranges: a path inside the tunnel that it carries would be a loop. */
  readonly ranges: readonly Cidr[];
}

/** True for an address to which a check may be sent; the peer and the server could name anything. */
export function isWorthAPacket(address: IpAddress, refused: Refused): boolean {
  if ([...NEVER, ...refused.ranges].some((prefix) => cidrContains(prefix, address))) return false;
  return !refused.links.addresses.some((own) => own.address === address);
}

export function directTarget(place: Place, links: Links): PathTarget {
  const { via, ...endpoint } = place;
  if (via !== undefined) return { key: placeKey(place), kind: "direct", endpoint, lan: false, via };
  const { address } = endpoint;
  // What seems to come from our router was turned round by it: the way there is no LAN's.
  const isRouter = links.uplinks.some(({ gateway }) => gateway === address);
  const lan = !isRouter && isPrivate(address) && links.connected.some(({ prefix }) => cidrContains(prefix, address));
  return { key: formatEndpoint(endpoint), kind: "direct", endpoint, lan };
}

/** The peer's candidates that may be tried, and the server's relay ports for the session. */
export function targetsOf(peer: readonly Candidate[], relay: readonly string[], refused: Refused): PathTarget[] {
  const direct = peer.flatMap(({ kind, endpoint: text }) => {
    // A fresh port is for one of ours, and what is foreseen counts only where the peer was seen.
    if (kind === "fresh" || (kind === "predicted" && !isSeenAt(peer, text))) return [];
    const endpoint = parseEndpoint(text);
    if (endpoint === null || !isWorthAPacket(endpoint.address, refused)) return [];
    return [directTarget(endpoint, refused.links)];
  });
  const relayed = relay.flatMap((text): PathTarget[] => {
    const endpoint = parseEndpoint(text);
    if (endpoint === null || !hasFamily(refused.links, endpoint)) return [];
    return [{ key: text, kind: "udp-relay", endpoint, lan: false }];
  });
  return [...relayed, ...direct.filter((target) => hasFamily(refused.links, target.endpoint))];
}

/** The IPv4 endpoints of the peer that the server itself has seen just now, of these kinds. */
export function seenEndpoints(peer: readonly Candidate[], kinds: readonly Candidate["kind"][]): Endpoint[] {
  const seen = peer.filter((one) => one.seen === true && kinds.includes(one.kind));
  return seen.flatMap((one) => parseEndpoint(one.endpoint) ?? []).filter(({ address }) => familyOf(address) === 4);
}

function isSeenAt(peer: readonly Candidate[], text: string): boolean {
  const address = parseEndpoint(text)?.address;
  return seenEndpoints(peer, ["reflexive", "fresh"]).some((one) => one.address === address);
}

function hasFamily(links: Links, endpoint: Endpoint): boolean {
  const family = familyOf(endpoint.address);
  return (
    links.uplinks.some((uplink) => uplink.family === family) ||
    links.connected.some(({ prefix }) => familyOf(prefix) === family)
  );
}

/** RFC 1918, RFC 4193. */
function isPrivate(address: IpAddress): boolean {
  return /^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|f[cd])/.test(address);
}

/** Where WireGuard sends already. An earlier session's relay had another port at the same address. */
export function livingTarget(endpoint: Endpoint, relayEndpoints: readonly string[]): PathTarget {
  const isRelay = relayEndpoints.some((text) => parseEndpoint(text)?.address === endpoint.address);
  return { key: formatEndpoint(endpoint), kind: isRelay ? "udp-relay" : "direct", endpoint, lan: false };
}

/** Our address on the link by which packets get there: the one of its network, or of the network of the gateway. Null when there is none. */
export function sourceTo({ address }: Endpoint, links: Links): IpAddress | null {
  const onLink = links.connected.find(({ prefix }) => cidrContains(prefix, address));
  const uplink = links.uplinks.find(({ family }) => family === familyOf(address));
  const name = onLink?.interface ?? uplink?.interface;
  const next = onLink === undefined ? uplink?.gateway : address;
  const own = links.addresses.filter(
    (one) =>
      one.interface === name &&
      one.scope === "global" &&
      !one.deprecated &&
      familyOf(one.address) === familyOf(address),
  );
  const near = own.find((one) => next != null && isNear(one, next));
  return (near ?? own[0])?.address ?? null;
}

function isNear(own: LocalAddress, other: IpAddress): boolean {
  const prefix = parseCidr(`${own.address}/${own.prefixLength}`);
  return prefix !== null && cidrContains(prefix, other);
}
