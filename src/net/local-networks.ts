// What is near this machine: its own bridges, the LAN that may be allowed, and the interfaces by which frames leave.
import { type Cidr, cidrContains, cidrParts, familyOf, type IpAddress } from "../base/ip.ts";
import { type Exec, output } from "./exec.ts";
import { type Links, readLinks } from "./links.ts";
import { bridgesWithoutUplink, outwardInterfaces } from "./routes/local-prefixes.ts";

export interface LocalNetworks {
  /** Bridges without an uplink, and their prefixes: containers and virtual machines, reachable whatever holds for the LAN. */
  readonly bridges: readonly string[];
  readonly bridgePrefixes: readonly Cidr[];
  /** The private prefixes that this machine is connected to: all that "the LAN" ever means. */
  readonly lan: readonly Cidr[];
  /** Interfaces by which frames leave this machine. */
  readonly outward: readonly string[];
  /** Gateways with a private address: home routers. */
  readonly routers: readonly IpAddress[];
}

export const NOTHING_NEAR: LocalNetworks = { bridges: [], bridgePrefixes: [], lan: [], outward: [], routers: [] };

/** What belongs to every LAN that is allowed: link-local addresses, multicast of the link and the site, broadcast. */
export const LAN_ALWAYS: readonly Cidr[] = [
  "224.0.0.0/24",
  "239.0.0.0/8",
  "255.255.255.255/32",
  "169.254.0.0/16",
  "fe80::/10",
  "ff02::/16",
  "ff05::/16",
] as unknown as readonly Cidr[];

/** RFC 1918. */
export const PRIVATE4 = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] as unknown as readonly Cidr[];
/** With RFC 4193. */
const PRIVATE = [...PRIVATE4, "fc00::/7" as Cidr];
/** A network's own DHCP server says how wide it is; wider than this is no LAN but an attack on what is routed (TunnelCrack). */
const WIDEST4 = 16;
const WIDEST6 = 48;

export async function readLocalNetworks(exec: Exec, signal: AbortSignal): Promise<LocalNetworks> {
  const [links, listed] = await Promise.all([
    readLinks(exec, signal),
    output(exec, ["ip", "-j", "-d", "link"], { signal }),
  ]);
  return localNetworksFrom(links, JSON.parse(listed));
}

/** Pure, from the links and the JSON of `ip -j -d link`. */
export function localNetworksFrom(links: Links, listed: unknown): LocalNetworks {
  const uplinks = links.uplinks.map((uplink) => uplink.interface);
  const bridges = bridgesWithoutUplink(listed, { uplinks });
  return networksOf(links, { bridges, outward: outwardInterfaces(listed, { uplinks, bridges }) });
}

/** Pure, on any platform, once it is known which interfaces are bridges of this machine's own, and which lead outward. */
export function networksOf(links: Links, known: Pick<LocalNetworks, "bridges" | "outward">): LocalNetworks {
  const { bridges, outward } = known;
  const ofBridge = (name: string): boolean => bridges.includes(name);
  const prefixesWhere = (wanted: (name: string) => boolean): readonly Cidr[] => [
    ...new Set(links.connected.filter((one) => wanted(one.interface)).map((one) => one.prefix)),
  ];
  return {
    bridges,
    bridgePrefixes: prefixesWhere(ofBridge),
    lan: prefixesWhere((name) => !ofBridge(name)).filter(isPrivate),
    outward,
    routers: [...new Set(links.uplinks.flatMap(({ gateway }) => gateway ?? []))].filter((one) =>
      PRIVATE.some((range) => cidrContains(range, one)),
    ),
  };
}

function isPrivate(prefix: Cidr): boolean {
  const { address, length } = cidrParts(prefix);
  if (length < (familyOf(prefix) === 4 ? WIDEST4 : WIDEST6)) return false;
  return PRIVATE.some((range) => cidrContains(range, address));
}
