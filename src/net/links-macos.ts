// The machine's own links on macOS: what `ifconfig` and `netstat` show, without higgs's own.
import { type Family, parseCidr, parseIp } from "../base/ip.ts";
import { type Exec, output } from "./exec.ts";
import { ROUTE_FLAGS } from "./identifiers-macos.ts";
import { parseIfconfig, type ShownAddress, type ShownInterface } from "./ifconfig.ts";
import type { ConnectedPrefix, Links, LocalAddress, Uplink } from "./links.ts";
import { type LocalNetworks, networksOf } from "./local-networks.ts";
import { parseNetstat, type ShownRoute } from "./netstat.ts";

export interface MacLinks {
  readonly interfaces: readonly ShownInterface[];
  readonly routes: Readonly<Record<Family, readonly ShownRoute[]>>;
}

export async function readShown(exec: Exec, signal: AbortSignal): Promise<MacLinks> {
  const [interfaces, routes4, routes6] = await Promise.all([
    // ifconfig(8): without arguments, all of them.
    output(exec, ["ifconfig"], { signal }),
    // netstat(1), -r: the routes, -n: numbers, -f: of one family.
    output(exec, ["netstat", "-rn", "-f", "inet"], { signal }),
    output(exec, ["netstat", "-rn", "-f", "inet6"], { signal }),
  ]);
  return {
    interfaces: parseIfconfig(interfaces),
    routes: { 4: parseNetstat(routes4, 4), 6: parseNetstat(routes6, 6) },
  };
}

/** A route that carries our marks, see net/identifiers-macos.ts. */
export function isMarked({ flags }: ShownRoute): boolean {
  return ROUTE_FLAGS.every((flag) => flags.includes(flag));
}

/** Pure. `own`: what macOS has named our tunnel; null while there is none. */
export function macLinks({ interfaces, routes }: MacLinks, own: string | null): Links {
  const foreign = interfaces.filter(({ name }) => name !== own && name !== "lo0");
  const addresses = foreign.flatMap((one) => one.addresses.map((address) => localAddress(one.name, address)));
  return {
    uplinks: [...uplinks(routes[4], 4, own), ...uplinks(routes[6], 6, own)],
    connected: addresses.flatMap(connectedPrefix),
    addresses,
    delegated: [],
    mtus: new Map(foreign.map(({ name, mtu }) => [name, mtu])),
  };
}

function localAddress(name: string, { address, prefixLength, isLinkLocal, words }: ShownAddress): LocalAddress {
  return {
    interface: name,
    address,
    prefixLength,
    scope: isLinkLocal ? "link" : "global",
    temporary: words.includes("temporary"),
    deprecated: words.includes("deprecated"),
    tentative: words.includes("tentative") || words.includes("duplicated"),
  };
}

function connectedPrefix({ interface: name, address, prefixLength, scope }: LocalAddress): readonly ConnectedPrefix[] {
  const prefix = scope === "link" ? null : parseCidr(`${address}/${prefixLength}`);
  return prefix === null ? [] : [{ interface: name, prefix }];
}

/** macOS lists the interface that it prefers first, and those that only a bound socket uses with the flag I. */
function uplinks(routes: readonly ShownRoute[], family: Family, own: string | null): readonly Uplink[] {
  return routes
    .filter((route) => route.isDefault && route.interface !== own && !isMarked(route) && !route.flags.includes("R"))
    .map((route, at) => ({
      interface: route.interface,
      family,
      gateway: parseIp(route.gateway.split("%")[0] ?? ""),
      metric: at,
    }));
}

/** Shared networks of virtual machines: those of macOS' own framework, and of VMware. */
const BRIDGE = /^(?:bridge1\d\d|vmnet\d+)$/;

export function macNetworks(links: Links): LocalNetworks {
  const uplinks = new Set(links.uplinks.map((uplink) => uplink.interface));
  const bridges = [...links.mtus.keys()].filter((name) => BRIDGE.test(name) && !uplinks.has(name));
  return networksOf(links, { bridges, outward: [...uplinks] });
}
