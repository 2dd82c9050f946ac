// A client's routes on macOS: everything by the tunnel over routes that refuse, and past it a route to each server alone.
import { SerialQueue } from "../../base/async.ts";
import {
  type Cidr,
  cidrContains,
  cidrParts,
  type Endpoint,
  type Family,
  familyOf,
  hostCidr,
  ipBytes,
  ipFromBytes,
  parseCidr,
} from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, ToolFailed } from "../exec.ts";
import { ROUTE_MARKS } from "../identifiers-macos.ts";
import { isInterfaceName } from "../interface-name.ts";
import type { Journal } from "../journal.ts";
import type { Links, Uplink } from "../links.ts";
import { isMarked, macLinks, readShown } from "../links-macos.ts";
import type { ShownRoute } from "../netstat.ts";
import type { ClientRoutes, ClientRoutesPolicy } from "./client-routes.ts";
import { RoutesRefused } from "./errors.ts";

/**
 * macOS has one table and no rules. So the default route stays as it is, and shorter prefixes lie over it: one that refuses, and over
 * that its two halves into the tunnel. When the tunnel's interface goes, its routes go with it, and what refuses is left.
 */
export interface MacRoute {
  readonly prefix: Cidr;
  readonly way: { readonly kind: "refuse" } | { readonly kind: "device" | "gateway"; readonly to: string };
}

const HALVES: Readonly<Record<Family, readonly Cidr[]>> = {
  4: ["0.0.0.0/1", "128.0.0.0/1"] as unknown as readonly Cidr[],
  6: ["::/1", "8000::/1"] as unknown as readonly Cidr[],
};

/** Pure. `device`: what macOS has named the tunnel. In the order in which they are added: what may pass outside first. */
export function wantedRoutes(
  policy: ClientRoutesPolicy,
  known: { readonly device: string; readonly links: Links },
): readonly MacRoute[] {
  const { device, links } = known;
  if (!isInterfaceName(device)) {
    throw new RoutesRefused(`Cannot route into "${device}": it is no interface name.`, {
      code: "interface-name-invalid",
    });
  }
  const isAll = policy.families[4] === "tunnel" || policy.families[6] === "tunnel";
  const refused = ([4, 6] as const).flatMap((family) => (policy.families[family] === "own" ? [] : HALVES[family]));
  const tunnelled = ([4, 6] as const).flatMap((family) => (policy.families[family] === "tunnel" ? HALVES[family] : []));
  return [
    ...(isAll ? policy.carrier.flatMap((endpoint) => carrierRoute(endpoint, links)) : []),
    ...[...refused, ...policy.tunnelPrefixes].map((prefix): MacRoute => ({ prefix, way: { kind: "refuse" } })),
    ...[...tunnelled, ...policy.tunnelPrefixes]
      .flatMap(halvesOf)
      .map((prefix): MacRoute => ({ prefix, way: { kind: "device", to: device } })),
  ];
}

/** By the best way out of its family; none is needed for a server on a network of this machine's own, whose route is longer. */
function carrierRoute({ address }: Endpoint, links: Links): readonly MacRoute[] {
  if (links.connected.some(({ prefix }) => familyOf(prefix) === familyOf(address) && cidrContains(prefix, address)))
    return [];
  const uplink = links.uplinks.find(({ family }) => family === familyOf(address));
  return uplink === undefined ? [] : [{ prefix: hostCidr(address), way: wayOut(uplink) }];
}

function wayOut({ gateway, interface: name }: Uplink): MacRoute["way"] {
  if (gateway === null) return { kind: "device", to: name };
  // A link-local gateway means something on its own link only.
  return { kind: "gateway", to: gateway.startsWith("fe80:") ? `${gateway}%${name}` : gateway };
}

function halvesOf(prefix: Cidr): readonly Cidr[] {
  const { address, length } = cidrParts(prefix);
  const bytes = ipBytes(address);
  if (length >= bytes.length * 8) return [prefix];
  bytes[length >> 3] = (bytes[length >> 3] ?? 0) | (0x80 >> (length & 7));
  return [`${address}/${length + 1}`, `${ipFromBytes(bytes) ?? ""}/${length + 1}`].flatMap(
    (text) => parseCidr(text) ?? [],
  );
}

/** Those that carry our marks, whoever made them. */
export function listedRoutes(shown: readonly ShownRoute[]): readonly MacRoute[] {
  return shown.filter(isMarked).flatMap(({ prefix, gateway, flags, interface: name }): readonly MacRoute[] => {
    if (prefix === null) return [];
    if (flags.includes("R")) return [{ prefix, way: { kind: "refuse" } }];
    return [{ prefix, way: flags.includes("G") ? { kind: "gateway", to: gateway } : { kind: "device", to: name } }];
  });
}

/** route(8): "add" with the family, a network or one host, and the way; the marks are flags like any other. */
export function addition(route: MacRoute): readonly [string, ...string[]] {
  const { way } = route;
  const nowhere = familyOf(route.prefix) === 4 ? "127.0.0.1" : "::1";
  const to =
    // -reject: packets are answered "no route" at once; a gateway has to be named all the same.
    way.kind === "refuse"
      ? [nowhere, "-reject"]
      : way.kind === "gateway"
        ? ["-gateway", way.to]
        : ["-interface", way.to];
  return ["route", "-n", "add", ...destination(route.prefix), ...to, ...ROUTE_MARKS];
}

/** route(8), "delete". */
export function deletion({ prefix }: MacRoute): readonly [string, ...string[]] {
  return ["route", "-n", "delete", ...destination(prefix)];
}

function destination(prefix: Cidr): readonly string[] {
  const { address, length } = cidrParts(prefix);
  const family = familyOf(prefix) === 4 ? "-inet" : "-inet6";
  return length === (familyOf(prefix) === 4 ? 32 : 128) ? [family, "-host", address] : [family, "-net", prefix];
}

/** The commands from what is listed to what is wanted, in an order in which nothing passes outside on the way. */
export function routeChanges(
  wanted: readonly MacRoute[],
  listed: readonly MacRoute[],
): readonly (readonly [string, ...string[]])[] {
  const has = (all: readonly MacRoute[], one: MacRoute): boolean => all.some((other) => textOf(other) === textOf(one));
  const missing = wanted.filter((route) => !has(listed, route));
  const extra = listed.filter((route) => !has(wanted, route));
  // One prefix has one route: another way there begins with the end of the old one.
  const replaced = extra.filter(({ prefix }) => missing.some((route) => route.prefix === prefix));
  return [
    ...missing.flatMap((route) => [
      ...replaced.filter(({ prefix }) => prefix === route.prefix).map(deletion),
      addition(route),
    ]),
    ...removals(extra.filter((route) => !replaced.includes(route))),
  ];
}

/** What leads into the tunnel goes first, then what refuses, and the ways past it last. */
function removals(routes: readonly MacRoute[]): readonly (readonly [string, ...string[]])[] {
  const rank = ({ prefix, way }: MacRoute): number =>
    way.kind === "refuse" ? 1 : cidrParts(prefix).length >= (familyOf(prefix) === 4 ? 32 : 128) ? 2 : 0;
  return routes.toSorted((a, b) => rank(a) - rank(b)).map(deletion);
}

function textOf({ prefix, way }: MacRoute): string {
  return way.kind === "refuse" ? `${prefix} refuse` : `${prefix} ${way.kind} ${way.to}`;
}

export interface MacRoutesDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
}

/** Calls are done one after the other, in their order. `device`: what macOS has named the tunnel, asked at each call. */
export function macClientRoutes(deps: MacRoutesDeps & { readonly device: () => Promise<string | null> }): ClientRoutes {
  const { exec, journal, log, device } = deps;
  const queue = new SerialQueue();
  let current: ClientRoutesPolicy | null = null;

  const changes = async (policy: ClientRoutesPolicy, signal: AbortSignal) => {
    const name = await device();
    if (name === null) {
      throw new RoutesRefused(`Cannot route into "${policy.interface}": the tunnel is not there.`, {
        code: "no-tunnel",
      });
    }
    const shown = await readShown(exec, signal);
    const listed = listedRoutes([...shown.routes[4], ...shown.routes[6]]);
    return routeChanges(wantedRoutes(policy, { device: name, links: macLinks(shown, name) }), listed);
  };

  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        current = policy;
        const commands = await changes(policy, signal);
        if (commands.length === 0) return false;
        await journal.add({ kind: "marked-routes" });
        log.info({ commands: commands.map((argv) => argv.join(" ")) }, "changing the routes");
        for (const argv of commands) await runRoute(exec, argv, signal);
        return true;
      }),
    verify: (signal) =>
      queue.run(async () => {
        if (current === null) return [];
        return (await changes(current, signal)).map((argv) => `Wants: ${argv.join(" ")}.`);
      }),
    reset: (signal) =>
      queue.run(async () => {
        current = null;
        await removeMarkedRoutes(exec, signal);
        await journal.remove({ kind: "marked-routes" });
      }),
  };
}

/** Every route that carries our marks, without memory. True when there were any. */
export async function removeMarkedRoutes(exec: Exec, signal: AbortSignal): Promise<boolean> {
  const { routes } = await readShown(exec, signal);
  const commands = removals(listedRoutes([...routes[4], ...routes[6]]));
  for (const argv of commands) await runRoute(exec, argv, signal);
  return commands.length > 0;
}

/** As a person would type them. */
export async function listMarkedRoutes(exec: Exec, signal: AbortSignal): Promise<readonly string[]> {
  const { routes } = await readShown(exec, signal);
  return listedRoutes([...routes[4], ...routes[6]]).map((route) => addition(route).join(" "));
}

/** route(8) has ended with 0 for what the kernel refused, and says so. */
async function runRoute(exec: Exec, argv: readonly [string, ...string[]], signal: AbortSignal): Promise<void> {
  const { code, stdout, stderr } = await exec.run(argv, { signal });
  const said = `${stderr}\n${stdout}`;
  // The tunnel's own routes go with its interface.
  if (argv[2] === "delete" && /: not in table/.test(said)) return;
  if (/: File exists/.test(said)) {
    throw new RoutesRefused(`Cannot do "${argv.join(" ")}": another program has a route of its own there.`, {
      code: "route-taken",
      remedy: "Switch the other VPN off; see: netstat -rn",
    });
  }
  if (code === 0 && !/^route: /m.test(said)) return;
  throw new ToolFailed(`Cannot do "${argv.join(" ")}": ${said.trim() || `exit code ${code}`}.`, {
    code: "tool-failed",
  });
}
