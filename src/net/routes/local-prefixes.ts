// Which bridges stay outside the tunnel: those without an uplink.
import { z } from "zod";

const LINKS = z.array(
  z.looseObject({
    ifname: z.string(),
    link_type: z.string().optional(),
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

/**
 * Names of the interfaces in `ip -j -d link` by which frames leave this machine. A port of a bridge without an uplink ends at a
 * container; a tunnel carries no frames of its own.
 */
export function outwardInterfaces(
  links: unknown,
  options: { readonly uplinks: readonly string[]; readonly bridges: readonly string[] },
): readonly string[] {
  const { uplinks, bridges } = options;
  return LINKS.parse(links)
    .filter(({ ifname, link_type: type }) => uplinks.includes(ifname) || type === "ether")
    .filter(({ ifname, master }) => ifname !== "lo" && !ifname.startsWith("higgs") && !bridges.includes(master ?? ""))
    .filter(({ ifname, linkinfo }) => {
      if (uplinks.includes(ifname)) return true;
      return !bridges.includes(ifname) && !VIRTUAL.has(linkinfo?.info_kind ?? "");
    })
    .map(({ ifname }) => ifname);
}

/** A veth without a bridge may be all that a container has. */
const VIRTUAL: ReadonlySet<string> = new Set(["tun", "tap", "dummy"]);
