// The network of a Windows machine: interfaces, routes and addresses as PowerShell tells them, and what higgs makes of them.
import { z } from "zod";
import { type Cidr, cidrContains, cidrParts, familyOf, type IpAddress, parseCidr, parseIp } from "../base/ip.ts";
import type { Exec } from "./exec.ts";
import type { ConnectedPrefix, Links, LocalAddress, Uplink } from "./links.ts";
import { type LocalNetworks, networksOf } from "./local-networks.ts";
import { askScript } from "./powershell.ts";

/** As the script "read-network" prints it; names are whatever people called their adapters. */
export const windowsNetwork = z.object({
  interfaces: z.array(
    z.object({
      index: z.int().min(0),
      alias: z.string(),
      family: z.enum(["IPv4", "IPv6"]),
      metric: z.number(),
      mtu: z.number(),
      forwarding: z.string(),
      connected: z.string(),
    }),
  ),
  routes: z.array(z.object({ index: z.int().min(0), prefix: z.string(), nextHop: z.string(), metric: z.number() })),
  addresses: z.array(
    z.object({
      index: z.int().min(0),
      address: z.string(),
      prefixLength: z.number(),
      origin: z.string(),
      state: z.string(),
    }),
  ),
});
export type WindowsNetwork = z.infer<typeof windowsNetwork>;

/** Throws ToolFailed and PowerShellUnreadable. */
export async function readWindowsNetwork(exec: Exec, signal: AbortSignal): Promise<WindowsNetwork> {
  return await askScript(exec, "read-network", { schema: windowsNetwork, signal });
}

export interface WindowsUplink extends Uplink {
  /** By which commands name the interface: its alias may hold anything. */
  readonly index: number;
}

/** Names of every role's tunnel begin so. */
const OWN_PREFIX = "higgs";
const LINK_LOCAL = ["169.254.0.0/16", "fe80::/10"] as unknown as readonly Cidr[];
const NOT_ROUTED = [
  "127.0.0.0/8",
  "224.0.0.0/4",
  "255.255.255.255/32",
  "::1/128",
  "ff00::/8",
] as unknown as readonly Cidr[];
/** Tunnels of other programs lay these over the default route instead of replacing it. */
const DEFAULTS: readonly string[] = ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"];
/** What stands for "on this link" as a next hop. */
const ON_LINK: readonly string[] = ["0.0.0.0", "::"];

/** Interfaces with a default route, the best first. */
export function windowsUplinks(network: WindowsNetwork): readonly WindowsUplink[] {
  const best = new Map<string, WindowsUplink>();
  for (const route of network.routes) {
    const prefix = parseCidr(route.prefix);
    if (prefix === null || !DEFAULTS.includes(prefix)) continue;
    const family = familyOf(prefix);
    const at = interfaceOf(network, route.index, family);
    if (at === undefined || !isForeign(at.alias) || at.connected === "Disconnected") continue;
    const uplink: WindowsUplink = {
      index: route.index,
      interface: at.alias,
      family,
      gateway: nextHopOf(route),
      // The lowest sum of the two is the way that Windows takes (Get-NetRoute, "RouteMetric").
      metric: route.metric + at.metric,
    };
    const key = `${route.index} ${family} ${uplink.gateway ?? ""}`;
    if (uplink.metric < (best.get(key)?.metric ?? Number.POSITIVE_INFINITY)) best.set(key, uplink);
  }
  return [...best.values()].sort((a, b) => a.metric - b.metric);
}

/** Null for what is on the link itself. */
export function nextHopOf({ nextHop }: { readonly nextHop: string }): IpAddress | null {
  return ON_LINK.includes(nextHop) ? null : parseIp(withoutZone(nextHop));
}

export function windowsLinks(network: WindowsNetwork): Links {
  return {
    uplinks: windowsUplinks(network),
    connected: connectedOf(network),
    addresses: network.addresses.flatMap((one) => addressOf(network, one)),
    delegated: [],
    mtus: new Map(network.interfaces.filter(({ alias }) => isForeign(alias)).map(({ alias, mtu }) => [alias, mtu])),
  };
}

/** Virtual switches are none of them: what a switch leads to is closed as everything else. */
export function windowsLocalNetworks(links: Links): LocalNetworks {
  return networksOf(links, { bridges: [], outward: [...new Set(links.uplinks.map((uplink) => uplink.interface))] });
}

function connectedOf(network: WindowsNetwork): readonly ConnectedPrefix[] {
  const found = new Map<string, ConnectedPrefix>();
  for (const route of network.routes) {
    const prefix = parseCidr(route.prefix);
    if (prefix === null || !ON_LINK.includes(route.nextHop) || DEFAULTS.includes(prefix)) continue;
    const { address, length } = cidrParts(prefix);
    if (length === (familyOf(prefix) === 4 ? 32 : 128)) continue; // each address, and each broadcast, has a route of its own
    if ([...LINK_LOCAL, ...NOT_ROUTED].some((range) => cidrContains(range, address))) continue;
    const at = interfaceOf(network, route.index, familyOf(prefix));
    if (at !== undefined && isForeign(at.alias)) found.set(`${at.alias} ${prefix}`, { interface: at.alias, prefix });
  }
  return [...found.values()];
}

function addressOf(network: WindowsNetwork, one: WindowsNetwork["addresses"][number]): readonly LocalAddress[] {
  const address = parseIp(withoutZone(one.address));
  if (address === null || isLoopback(address)) return [];
  const at = interfaceOf(network, one.index, familyOf(address));
  if (at === undefined || !isForeign(at.alias)) return [];
  return [
    {
      interface: at.alias,
      address,
      prefixLength: one.prefixLength,
      scope: LINK_LOCAL.some((range) => cidrContains(range, address)) ? "link" : "global",
      temporary: one.origin === "Random",
      deprecated: one.state === "Deprecated",
      tentative: one.state === "Tentative" || one.state === "Duplicate" || one.state === "Invalid",
    },
  ];
}

function interfaceOf(
  network: WindowsNetwork,
  index: number,
  family: 4 | 6,
): WindowsNetwork["interfaces"][number] | undefined {
  return network.interfaces.find((one) => one.index === index && one.family === `IPv${family}`);
}

function isForeign(alias: string): boolean {
  return !alias.startsWith(OWN_PREFIX) && !alias.startsWith("Loopback");
}

function isLoopback(address: IpAddress): boolean {
  return address === "::1" || cidrContains("127.0.0.0/8" as Cidr, address);
}

/** Windows writes link-local addresses with the interface's index: `fe80::1%12`. */
function withoutZone(text: string): string {
  return text.replace(/%\d+$/, "");
}
