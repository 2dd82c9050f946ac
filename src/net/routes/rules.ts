// The rules and routes of a client as lines for `ip -batch`, and the same lines from what `ip -j` lists.
import { z } from "zod";
import { type Endpoint, familyOf, type Family } from "../../base/ip.ts";
import type { Identifiers } from "../identifiers.ts";
import { isInterfaceName } from "../interface-name.ts";
import type { ClientRoutesPolicy } from "./client-routes.ts";
import { RoutesRefused } from "./errors.ts";

/** Rules and routes of one family; each line is what follows `rule add`, and `route add … table T`. */
export interface RouteLines {
  readonly rules: readonly string[];
  readonly routes: readonly string[];
}

/** The numbers of a role that routes; a role without them makes no rules. */
export interface RouteNumbers {
  readonly first: number;
  readonly last: number;
  readonly table: number;
  readonly mark: string;
}

export function routeNumbers(identifiers: Identifiers): RouteNumbers | null {
  const { rulePrefs, routeTable, mark, markMask } = identifiers;
  if (rulePrefs === null || routeTable === null) return null;
  return { ...rulePrefs, table: routeTable, mark: `fwmark 0x${mark.toString(16)}/0x${markMask.toString(16)}` };
}

/** Behind every other route of the table: the largest metric less room for more, so that it alone stays when the device goes. */
export const LAST_METRIC = 4278198272;

/** Distances from the first preference; the order is the meaning. */
const CARRIER = 10;
const DISCOVERY = 11;
const NO_WAY_OUT = 40;

/**
 * first      WireGuard's own socket, by its mark, uses the main table
 * first+10   so does the carrier, to each server and proxy, for its user alone
 * first+11   and discovery, by the port of its socket
 * first+40   what is marked and found no way must not fall into the tunnel
 * last       everybody else: the tunnel's table, which ends in "unreachable"
 */
export function wantedLines(
  policy: ClientRoutesPolicy,
  options: { readonly numbers: RouteNumbers; readonly family: Family },
): RouteLines {
  const { numbers, family } = options;
  if (!isInterfaceName(policy.interface)) {
    throw new RoutesRefused(`Cannot route into "${policy.interface}": it is no interface name.`, {
      code: "interface-name-invalid",
    });
  }
  const carrier = policy.carrier.filter((endpoint) => familyOf(endpoint.address) === family);
  const rules = [`pref ${numbers.first} ${numbers.mark} lookup main`];
  for (const endpoint of carrier) rules.push(carrierRule(endpoint, { pref: numbers.first + CARRIER, uid: policy.uid }));
  if (policy.discoveryPort !== undefined) {
    rules.push(`pref ${numbers.first + DISCOVERY} ipproto udp sport ${policy.discoveryPort} lookup main`);
  }
  rules.push(`pref ${numbers.first + NO_WAY_OUT} ${numbers.mark} unreachable`);
  rules.push(`pref ${numbers.last} lookup ${numbers.table}`);

  return { rules: [...new Set(rules)], routes: wantedRoutes(policy, family) };
}

/** The ends come first: what shall enter the tunnel finds no way outside, also when the device is gone. */
function wantedRoutes(policy: ClientRoutesPolicy, family: Family): readonly string[] {
  const inTunnel = policy.tunnelPrefixes.filter((prefix) => familyOf(prefix) === family).map(shortest);
  // A bridge on the very prefix of the tunnel loses: one prefix has one route.
  const local = policy.throwPrefixes
    .filter((prefix) => familyOf(prefix) === family && !policy.tunnelPrefixes.includes(prefix))
    .map(shortest);
  const way = policy.families[family];
  const ends = way === "own" ? inTunnel : ["default"];
  const ways = way === "tunnel" ? [...inTunnel, "default"] : inTunnel;
  const lines = [
    ...ends.map((prefix) => `${END} ${prefix} metric ${LAST_METRIC}`),
    ...local.map((prefix) => `throw ${prefix}`),
    ...ways.map((prefix) => `${prefix} dev ${policy.interface}`),
  ];
  return [...new Set(lines)];
}

const END = "unreachable";

function carrierRule({ address, port }: Endpoint, as: { readonly pref: number; readonly uid: number }): string {
  return `pref ${as.pref} to ${address} ipproto tcp dport ${port} uidrange ${as.uid}-${as.uid} lookup main`;
}

/** As `ip` prints it: a host without its length. */
function shortest(prefix: string): string {
  return prefix.replace(prefix.includes(":") ? /\/128$/ : /\/32$/, "");
}

const RULE = z.looseObject({
  priority: z.number(),
  not: z.unknown().optional(),
  src: z.string().optional(),
  srclen: z.number().optional(),
  dst: z.string().optional(),
  dstlen: z.number().optional(),
  fwmark: z.string().optional(),
  fwmask: z.string().optional(),
  iif: z.string().optional(),
  oif: z.string().optional(),
  ipproto: z.string().optional(),
  sport: z.union([z.number(), z.string()]).optional(),
  dport: z.union([z.number(), z.string()]).optional(),
  uid_start: z.number().optional(),
  uid_end: z.number().optional(),
  table: z.string().optional(),
  action: z.string().optional(),
});

/**
 * Our lines among those of `ip -N -j rule`. Other programs use the same preferences (Tailscale all of ours), so a rule is
 * ours by preference and by mark, table, or the kind of traffic that only we select there.
 */
export function listedRules(json: unknown, numbers: RouteNumbers): readonly string[] {
  return z
    .array(RULE)
    .parse(json)
    .filter(({ priority }) => priority >= numbers.first && priority <= numbers.last)
    .filter((rule) => {
      const excepted = rule.priority === numbers.first + CARRIER || rule.priority === numbers.first + DISCOVERY;
      return (
        markOf(rule) === numbers.mark ||
        rule.table === String(numbers.table) ||
        (excepted && rule.ipproto !== undefined)
      );
    })
    .map(ruleLine);
}

function ruleLine(rule: z.infer<typeof RULE>): string {
  const parts = [rule.not === undefined ? "" : "not", `pref ${rule.priority}`];
  if (rule.src !== undefined && rule.src !== "all") parts.push(`from ${withLength(rule.src, rule.srclen)}`);
  if (rule.dst !== undefined) parts.push(`to ${withLength(rule.dst, rule.dstlen)}`);
  parts.push(markOf(rule));
  if (rule.iif !== undefined) parts.push(`iif ${rule.iif}`);
  if (rule.oif !== undefined) parts.push(`oif ${rule.oif}`);
  if (rule.ipproto !== undefined) parts.push(`ipproto ${protocolName(rule.ipproto)}`);
  if (rule.sport !== undefined) parts.push(`sport ${rule.sport}`);
  if (rule.dport !== undefined) parts.push(`dport ${rule.dport}`);
  if (rule.uid_start !== undefined) parts.push(`uidrange ${rule.uid_start}-${rule.uid_end ?? rule.uid_start}`);
  parts.push(rule.action === undefined ? `lookup ${tableName(rule.table ?? "main")}` : typeName(rule.action));
  return parts.filter((part) => part !== "").join(" ");
}

function markOf(rule: z.infer<typeof RULE>): string {
  return rule.fwmark === undefined ? "" : `fwmark ${rule.fwmark}${rule.fwmask === undefined ? "" : `/${rule.fwmask}`}`;
}

function withLength(address: string, length: number | undefined): string {
  return length === undefined ? address : `${address}/${length}`;
}

const ROUTE = z.looseObject({
  type: z.string().optional(),
  dst: z.string(),
  gateway: z.string().optional(),
  dev: z.string().optional(),
  metric: z.number().optional(),
});

/** What the kernel gives an IPv6 route that says none. */
const DEFAULT_METRIC6 = 1024;

/** The lines of `ip -N -j route show table T`. */
export function listedRoutes(json: unknown): readonly string[] {
  return z.array(ROUTE).parse(json).map(routeLine);
}

function routeLine(route: z.infer<typeof ROUTE>): string {
  const type = typeName(route.type ?? "unicast");
  const parts = type === "unicast" ? [route.dst] : [type, route.dst];
  if (route.gateway !== undefined) parts.push(`via ${route.gateway}`);
  if (type === "unicast" && route.dev !== undefined) parts.push(`dev ${route.dev}`);
  if (route.metric !== undefined && route.metric !== DEFAULT_METRIC6) parts.push(`metric ${route.metric}`);
  return parts.join(" ");
}

/** With `-N`, so that the machine's own names for tables do not come between, `ip` gives numbers of these too. */
const TYPES: Readonly<Record<string, string>> = {
  "1": "unicast",
  "6": "blackhole",
  "7": "unreachable",
  "8": "prohibit",
  "9": "throw",
};
const TABLES: Readonly<Record<string, string>> = { "253": "default", "254": "main", "255": "local" };
const PROTOCOLS: Readonly<Record<string, string>> = { "6": "tcp", "17": "udp" };

function typeName(type: string): string {
  return TYPES[type] ?? type;
}

function tableName(table: string): string {
  return TABLES[table] ?? table;
}

function protocolName(protocol: string): string {
  const number = protocol.replace(/^ipproto-/, "");
  return PROTOCOLS[number] ?? number;
}

/** The lines of one `ip -batch`; none when everything is as wanted. */
export function reconcile(
  wanted: RouteLines,
  options: { readonly listed: RouteLines; readonly numbers: RouteNumbers },
): readonly string[] {
  const { listed, numbers } = options;
  const table = `table ${numbers.table}`;
  const tunnelRule = `pref ${numbers.last} lookup ${numbers.table}`;
  const missing = without(wanted.rules, listed.rules);
  const newRoutes = without(wanted.routes, listed.routes);
  return [
    // What may pass outside must be able to before the rest cannot.
    ...missing.filter((line) => line !== tunnelRule).map((line) => `rule add ${line}`),
    // Then the ends of the table, so that taking a route away never opens a way outside.
    ...newRoutes.filter(isEnd).map((line) => `route add ${line} ${table}`),
    ...without(listed.routes, wanted.routes).map((line) => `route del ${line} ${table}`),
    ...newRoutes.filter((line) => !isEnd(line)).map((line) => `route add ${line} ${table}`),
    ...missing.filter((line) => line === tunnelRule).map((line) => `rule add ${line}`),
    ...without(listed.rules, wanted.rules)
      .toReversed()
      .map((line) => `rule del ${line}`),
  ];
}

/** The tunnel's rule goes first: with it the rest of ours means nothing any more. */
export function removal(listed: RouteLines, numbers: RouteNumbers): readonly string[] {
  return [
    ...listed.rules.toReversed().map((line) => `rule del ${line}`),
    ...listed.routes.map((line) => `route del ${line} table ${numbers.table}`),
  ];
}

function isEnd(line: string): boolean {
  return line.startsWith(`${END} `);
}

function without(lines: readonly string[], others: readonly string[]): readonly string[] {
  const known = new Set(others);
  return lines.filter((line) => !known.has(line));
}
