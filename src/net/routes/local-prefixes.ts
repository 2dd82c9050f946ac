// Which connected prefixes may stay outside the tunnel: bridges without an uplink, and the private part of the LAN.
import { z } from "zod";
import { type Cidr, cidrContains, cidrParts } from "../../base/ip.ts";

const LINKS = z.array(
  z.looseObject({
    ifname: z.string(),
    master: z.string().optional(),
    linkinfo: z.looseObject({ info_kind: z.string().optional() }).optional(),
  }),
);

/** Ports that end on this host, in a container or a virtual machine. Any other port may be a cable. */
const LOCAL_PORTS: ReadonlySet<string> = new Set(["veth", "tun", "tap", "dummy", "vnet"]);

/**
 * Names of the bridges in `ip -j -d link` that lead nowhere but to containers and virtual machines of this host.
 * A bridge that is itself an uplink is none of them, whatever its ports are.
 */
export function bridgesWithoutUplink(
  links: unknown,
  options: { readonly uplinks?: readonly string[] } = {},
): readonly string[] {
  const all = LINKS.parse(links);
  const leadsOut = new Set(options.uplinks);
  for (const { master, linkinfo } of all) {
    if (master !== undefined && !LOCAL_PORTS.has(linkinfo?.info_kind ?? "")) leadsOut.add(master);
  }
  return all
    .filter(({ ifname, linkinfo }) => linkinfo?.info_kind === "bridge" && !leadsOut.has(ifname))
    .map(({ ifname }) => ifname);
}

/** RFC 1918, RFC 4193. */
const PRIVATE: readonly Cidr[] = [
  "10.0.0.0/8",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "fc00::/7",
] as unknown as readonly Cidr[];
/** A network that claims more than one site's share would take others' addresses out of the tunnel. */
const SHORTEST4 = 16;
const SHORTEST6 = 48;

/** Of the connected prefixes those that a person may allow as "the LAN": private, and no larger than one site. */
export function allowedLanPrefixes(connected: readonly Cidr[]): readonly Cidr[] {
  return connected.filter((prefix) => {
    const { address, length } = cidrParts(prefix);
    if (length < (prefix.includes(":") ? SHORTEST6 : SHORTEST4)) return false;
    return PRIVATE.some((range) => cidrContains(range, address));
  });
}
