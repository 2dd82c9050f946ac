// A client's routes on Windows: halves of the address space into the tunnel, and a route to each server past it.
//
// There are no marks and no rules there: what a more specific route of the network's own DHCP server leads past the tunnel
// (TunnelVision) is stopped by the firewall alone, and a server's address is reached past the tunnel by whatever the firewall lets.
import { SerialQueue } from "../../base/async.ts";
import { type Cidr, type Family, familyOf, hostCidr, type IpAddress, parseCidr } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { nextHopOf, readWindowsNetwork, type WindowsNetwork, windowsUplinks } from "../windows-network.ts";
import type { ClientRoutes, ClientRoutesPolicy } from "./client-routes.ts";
import { RoutesRefused } from "./errors.ts";
import { checkMtus, type PeerMtus } from "./peer-mtu.ts";

export interface WindowsRoutesDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Pick<Identifiers, "interface" | "routeTable">;
  readonly log: Logger;
}

export interface WindowsRoute {
  readonly prefix: Cidr;
  /** The interface's index. */
  readonly index: number;
  /** Null for what is on the link itself. */
  readonly nextHop: IpAddress | null;
  readonly metric: number;
}

/** Longer than any default, and shorter than any network's own route: the LAN's routes stay, and the firewall closes what they lead to. */
const HALVES: Readonly<Record<Family, readonly Cidr[]>> = {
  4: ["0.0.0.0/1", "128.0.0.0/1"] as unknown as readonly Cidr[],
  6: ["::/1", "8000::/1"] as unknown as readonly Cidr[],
};
const TUNNEL_METRIC = 1;

/** Pure. The metric of a route past the tunnel, `ownMetric`, is how it is known again: nobody else's is that number. */
export function wantedRoutes(
  policy: ClientRoutesPolicy,
  network: WindowsNetwork,
  ownMetric: number,
): readonly WindowsRoute[] {
  const tunnel = tunnelIndex(network, policy.interface);
  if (tunnel === null) {
    throw new RoutesRefused(`Cannot route into "${policy.interface}": there is no such interface.`, {
      code: "no-tunnel",
    });
  }
  const into = [
    ...policy.tunnelPrefixes,
    // What should be refused goes into the tunnel as well, where no peer takes it.
    ...([4, 6] as const).flatMap((family) => (policy.families[family] === "own" ? [] : HALVES[family])),
  ];
  const hasIpv6 = network.interfaces.some(({ index, family }) => index === tunnel && family === "IPv6");
  const uplinks = windowsUplinks(network);
  const past = new Map<string, WindowsRoute>();
  for (const { address } of policy.carrier) {
    const uplink = uplinks.find(({ family }) => family === familyOf(address));
    if (uplink === undefined) continue;
    const prefix = hostCidr(address);
    past.set(prefix, { prefix, index: uplink.index, nextHop: uplink.gateway, metric: ownMetric });
  }
  return [
    ...past.values(),
    ...[...new Set(into)]
      .filter((prefix) => hasIpv6 || familyOf(prefix) === 4)
      .map((prefix) => ({ prefix, index: tunnel, nextHop: null, metric: TUNNEL_METRIC })),
  ];
}

/** Ours that are there: by the tunnel's interface, where addresses and multicast have routes of Windows' own, and by the metric. */
export function listedRoutes(
  network: WindowsNetwork,
  options: { readonly interface: string; readonly ownMetric: number },
): readonly WindowsRoute[] {
  const tunnel = tunnelIndex(network, options.interface);
  return network.routes.flatMap((route) => {
    const isOurs = route.metric === options.ownMetric || (route.index === tunnel && route.metric === TUNNEL_METRIC);
    const prefix = parseCidr(route.prefix);
    if (!isOurs || prefix === null) return [];
    const { index, metric } = route;
    return [{ prefix, index, nextHop: nextHopOf(route), metric }];
  });
}

function tunnelIndex({ interfaces }: WindowsNetwork, name: string): number | null {
  return interfaces.find(({ alias }) => alias === name)?.index ?? null;
}

/** netsh interface ipv4|ipv6 add route|delete route (learn.microsoft.com, netsh-interface; `netsh interface ipv4 add route ?`). */
export function routeArgv(verb: "add" | "delete", route: WindowsRoute): readonly [string, ...string[]] {
  const { prefix, index, nextHop, metric } = route;
  return [
    "netsh",
    "interface",
    `ipv${familyOf(prefix)}`,
    verb,
    "route",
    `prefix=${prefix}`,
    `interface=${index}`,
    ...(nextHop === null ? [] : [`nexthop=${nextHop}`]),
    ...(verb === "add" ? [`metric=${metric}`] : []),
    // Not kept in the registry: a boot takes it away.
    "store=active",
  ];
}

/** Calls are done one after the other, in their order. */
export function windowsClientRoutes(deps: WindowsRoutesDeps): ClientRoutes {
  const { exec, journal, identifiers, log } = deps;
  const ownMetric = identifiers.routeTable;
  if (ownMetric === null) {
    throw new RoutesRefused(`Cannot make routes for "${identifiers.interface}": its role has none.`, {
      code: "no-routes",
    });
  }
  const queue = new SerialQueue();
  let current: ClientRoutesPolicy | null = null;

  const planned = async (
    policy: ClientRoutesPolicy,
    signal: AbortSignal,
  ): Promise<readonly (readonly [string, ...string[]])[]> => {
    const network = await readWindowsNetwork(exec, signal);
    const listed = listedRoutes(network, { interface: policy.interface, ownMetric });
    const wanted = wantedRoutes(policy, network, ownMetric);
    return [
      // The way past the tunnel is there before the tunnel takes everything, and its old one goes when the new one stands.
      ...wanted.filter((route) => !has(listed, route)).map((route) => routeArgv("add", route)),
      ...listed.filter((route) => !has(wanted, route)).map((route) => routeArgv("delete", route)),
    ];
  };

  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        current = policy;
        const changes = await planned(policy, signal);
        if (changes.length === 0) return false;
        if (!journal.entries().some(({ kind }) => kind === "windows-routes"))
          await journal.add({ kind: "windows-routes" });
        log.info({ changes: changes.map((argv) => argv.join(" ")) }, "changing the routes");
        for (const argv of changes) await output(exec, argv, { signal });
        return true;
      }),
    verify: (signal) =>
      queue.run(async () =>
        current === null ? [] : (await planned(current, signal)).map((argv) => `Wants: ${argv.join(" ")}.`),
      ),
    reset: (signal) =>
      queue.run(async () => {
        current = null;
        await removeWindowsRoutes(exec, identifiers, signal);
        await journal.remove({ kind: "windows-routes" });
      }),
  };
}

/** Every route of the role that is there, without memory. True when there were any. */
export async function removeWindowsRoutes(
  exec: Exec,
  identifiers: Pick<Identifiers, "interface" | "routeTable">,
  signal: AbortSignal,
): Promise<boolean> {
  const routes = listedRoutes(await readWindowsNetwork(exec, signal), {
    interface: identifiers.interface,
    ownMetric: identifiers.routeTable ?? Number.NaN,
  });
  for (const route of routes) await output(exec, routeArgv("delete", route), { signal });
  return routes.length > 0;
}

function has(routes: readonly WindowsRoute[], wanted: WindowsRoute): boolean {
  return routes.some((route) => Bun.deepEquals(route, wanted));
}

/** Windows keeps a size for an interface, not for a route: packets to a peer by a narrow path stay as large as the device's. */
export function windowsPeerMtus(): PeerMtus {
  return {
    apply(peers) {
      checkMtus(peers);
      return Promise.resolve();
    },
  };
}
