// The machine's own links: interfaces with a default route, gateways, connected prefixes and addresses, read from `ip`.
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import {
  type Cidr,
  cidrContains,
  cidrParts,
  type Family,
  familyOf,
  type IpAddress,
  parseCidr,
  parseIp,
} from "../base/ip.ts";
import { type Exec, output } from "./exec.ts";

/** One way out: an interface with a default route in one family. */
export interface Uplink {
  readonly interface: string;
  readonly family: Family;
  /** Null on point-to-point links such as ppp0. */
  readonly gateway: IpAddress | null;
  /** Smaller is better; the kernel gives IPv6 routes 1024 where nobody chose. */
  readonly metric: number;
}

/** A network that is reached without a gateway; link-local ones are not listed. */
export interface ConnectedPrefix {
  readonly interface: string;
  readonly prefix: Cidr;
}

export interface LocalAddress {
  readonly interface: string;
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly scope: "global" | "link" | "other";
  /** IPv6: a privacy address, one that is going out of use, one that is not usable yet. */
  readonly temporary: boolean;
  readonly deprecated: boolean;
  readonly tentative: boolean;
}

/** Everything except the interfaces that are higgs's own, and loopback. */
export interface Links {
  /** Best metric first. */
  readonly uplinks: readonly Uplink[];
  readonly connected: readonly ConnectedPrefix[];
  readonly addresses: readonly LocalAddress[];
  /** Prefixes that this machine was delegated: unreachable routes of IPv6, as routers keep them. */
  readonly delegated: readonly Cidr[];
  /** Bytes, by interface. */
  readonly mtus: ReadonlyMap<string, number>;
}

export class LinksUnreadable extends HiggsError {
  override readonly name = "LinksUnreadable";
}

/** What `ip -j` printed. */
export interface LinksJson {
  /** `ip -j addr show` */
  readonly addresses: string;
  /** `ip -j -4 route show table main` */
  readonly routes4: string;
  readonly routes6: string;
}

export async function readLinks(exec: Exec, signal: AbortSignal): Promise<Links> {
  const [addresses, routes4, routes6] = await Promise.all([
    output(exec, ["ip", "-j", "addr", "show"], { signal }),
    output(exec, ["ip", "-j", "-4", "route", "show", "table", "main"], { signal }),
    routesOfIpv6(exec, signal),
  ]);
  return linksFrom({ addresses, routes4, routes6 });
}

/** All that this machine has a way to, but for defaults, link-local networks and higgs's own tunnels: by a gateway too. */
export async function readPrefixes(exec: Exec, signal: AbortSignal): Promise<readonly ConnectedPrefix[]> {
  const [addresses, routes4, routes6] = await Promise.all([
    output(exec, ["ip", "-j", "addr", "show"], { signal }),
    output(exec, ["ip", "-j", "-4", "route", "show", "table", "main"], { signal }),
    routesOfIpv6(exec, signal),
  ]);
  return prefixesFrom({ addresses, routes4, routes6 });
}

/** Throws LinksUnreadable for what is not the JSON of `ip`. */
export function prefixesFrom(json: LinksJson): readonly ConnectedPrefix[] {
  const routes = [...parsed(shownRoutes, json.routes4), ...parsed(shownRoutes, json.routes6)];
  return unique([...linksFrom(json).connected, ...routes.flatMap(routedPrefix)]);
}

function routedPrefix(route: ShownRoute): readonly ConnectedPrefix[] {
  const dev = route.dev ?? route.nexthops?.find((one) => one.dev !== undefined)?.dev;
  if (!isUnicast(route) || isDefault(route.dst) || !isForeign(dev)) return [];
  const prefix = prefixOfDst(route.dst);
  return prefix === null || isLinkLocal(prefix) ? [] : [{ interface: dev ?? "", prefix }];
}

/** A kernel without IPv6 refuses the question. */
async function routesOfIpv6(exec: Exec, signal: AbortSignal): Promise<string> {
  const { code, stdout } = await exec.run(["ip", "-j", "-6", "route", "show", "table", "main"], { signal });
  return code === 0 ? stdout : "[]";
}

const shownAddresses = z.array(
  z.object({
    ifname: z.string().optional(), // iproute2 prints an empty object for what it filtered out
    mtu: z.number().optional(),
    addr_info: z
      .array(
        z.object({
          local: z.string().optional(),
          prefixlen: z.number().optional(),
          scope: z.string().optional(),
          temporary: z.boolean().optional(),
          deprecated: z.boolean().optional(),
          tentative: z.boolean().optional(),
          dadfailed: z.boolean().optional(),
        }),
      )
      .optional(),
  }),
);
const hop = {
  dev: z.string().optional(),
  gateway: z.string().optional(),
  via: z.object({ host: z.string() }).optional(),
  flags: z.array(z.string()).optional(),
};
const shownRoutes = z.array(
  z.object({
    ...hop,
    type: z.string().optional(),
    dst: z.string(),
    metric: z.number().optional(),
    nexthops: z.array(z.object(hop)).optional(),
  }),
);
type ShownRoute = z.infer<typeof shownRoutes>[number];

/** Names of every role's tunnel begin so. */
const OWN_PREFIX = "higgs";
/** Tunnels of other programs lay these over the default route instead of replacing it. */
const HALVES: readonly string[] = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"];
const LINK_LOCAL = ["169.254.0.0/16" as Cidr, "fe80::/10" as Cidr];

/** Throws LinksUnreadable for what is not the JSON of `ip`. */
export function linksFrom(json: LinksJson): Links {
  const shown = parsed(shownAddresses, json.addresses).filter((link) => isForeign(link.ifname));
  const routes4 = parsed(shownRoutes, json.routes4);
  const routes6 = parsed(shownRoutes, json.routes6);
  const addresses = shown.flatMap((link) => addressesOf(link.ifname ?? "", link.addr_info ?? []));
  const connected = [...addresses.flatMap(prefixOf), ...[...routes4, ...routes6].flatMap(onLinkPrefix)];
  return {
    uplinks: [...uplinksOf(routes4, 4), ...uplinksOf(routes6, 6)].sort((a, b) => a.metric - b.metric),
    connected: unique(connected),
    addresses,
    delegated: routes6.filter((route) => route.type === "unreachable").flatMap((route) => parseCidr(route.dst) ?? []),
    mtus: new Map(shown.map((link) => [link.ifname ?? "", link.mtu ?? 0])),
  };
}

function isForeign(name: string | undefined): boolean {
  return name !== undefined && name !== "lo" && !name.startsWith(OWN_PREFIX);
}

type ShownAddress = NonNullable<z.infer<typeof shownAddresses>[number]["addr_info"]>[number];

function addressesOf(name: string, shown: readonly ShownAddress[]): readonly LocalAddress[] {
  return shown.flatMap((one) => {
    const address = parseIp(one.local ?? "");
    if (address === null) return [];
    return {
      interface: name,
      address,
      prefixLength: one.prefixlen ?? (familyOf(address) === 4 ? 32 : 128),
      scope: one.scope === "global" || one.scope === "link" ? one.scope : "other",
      temporary: one.temporary === true,
      deprecated: one.deprecated === true,
      tentative: one.tentative === true || one.dadfailed === true,
    };
  });
}

function prefixOf(one: LocalAddress): readonly ConnectedPrefix[] {
  const prefix = parseCidr(`${one.address}/${one.prefixLength}`);
  return prefix === null || isLinkLocal(prefix) ? [] : [{ interface: one.interface, prefix }];
}

/** A single host is written without its length. */
function prefixOfDst(dst: string): Cidr | null {
  return parseCidr(dst.includes("/") ? dst : `${dst}/${dst.includes(":") ? 128 : 32}`);
}

/** Also those without an address of ours in them, as a router may announce. */
function onLinkPrefix(route: ShownRoute): readonly ConnectedPrefix[] {
  if (!isUnicast(route) || isDefault(route.dst) || route.nexthops !== undefined) return [];
  if (route.gateway !== undefined || route.via !== undefined || !isForeign(route.dev)) return [];
  const prefix = prefixOfDst(route.dst);
  return prefix === null || isLinkLocal(prefix) ? [] : [{ interface: route.dev ?? "", prefix }];
}

function uplinksOf(routes: readonly ShownRoute[], family: Family): readonly Uplink[] {
  const best = new Map<string, Uplink>();
  for (const route of routes) {
    if (!isUnicast(route) || !isDefault(route.dst)) continue;
    for (const { dev, gateway, via, flags } of route.nexthops ?? [route]) {
      if (dev === undefined || !isForeign(dev) || flags?.includes("dead") === true) continue;
      const uplink = {
        interface: dev,
        family,
        gateway: parseIp(gateway ?? via?.host ?? ""),
        metric: route.metric ?? 0,
      };
      const key = `${dev} ${uplink.gateway ?? ""}`;
      if (uplink.metric < (best.get(key)?.metric ?? Number.POSITIVE_INFINITY)) best.set(key, uplink);
    }
  }
  return [...best.values()];
}

function isUnicast(route: ShownRoute): boolean {
  return route.type === undefined || route.type === "unicast";
}

function isDefault(dst: string): boolean {
  return dst === "default" || HALVES.includes(dst);
}

function isLinkLocal(prefix: Cidr): boolean {
  return LINK_LOCAL.some((range) => cidrContains(range, cidrParts(prefix).address));
}

function unique(prefixes: readonly ConnectedPrefix[]): readonly ConnectedPrefix[] {
  return [...new Map(prefixes.map((one) => [`${one.interface} ${one.prefix}`, one])).values()];
}

function parsed<T>(schema: z.ZodType<T>, text: string): T {
  try {
    return schema.parse(JSON.parse(text.trim() === "" ? "[]" : text));
  } catch (thrown) {
    throw new LinksUnreadable('Cannot read this machine\'s links: "ip -j" answered something else than expected.', {
      code: "links-unreadable",
      cause: thrown,
    });
  }
}
