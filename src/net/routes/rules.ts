// The rules and routes that a client wants, as lines for `ip -batch`, and the way there from what is listed.
import { type Cidr, cidrContains, cidrParts, type Endpoint, familyOf, type Family } from "../../base/ip.ts";
import type { Identifiers } from "../identifiers.ts";
import { isInterfaceName } from "../interface-name.ts";
import type { ClientRoutesPolicy } from "./client-routes.ts";
import { RoutesRefused } from "./errors.ts";
import type { PeerMtu } from "./peer-mtu.ts";

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
export const CARRIER = 10;
export const DISCOVERY = 11;
export const LEASE = 12;
const NO_WAY_OUT = 40;

/**
 * first      WireGuard's own socket, by its mark, uses the main table
 * first+10   so does the carrier, to each server and proxy, for its user alone
 * first+11   and discovery, by the port of its socket, for its user alone too: the port may be another's one day
 * first+12   and what a DHCP client says to its server alone: the tunnel would swallow it, and the lease would not be renewed in time
 * first+40   what is marked and found no way must not fall into the tunnel
 * last       everybody else: the tunnel's table, which ends in "unreachable"
 */
export function wantedLines(
  policy: ClientRoutesPolicy,
  options: { readonly numbers: RouteNumbers; readonly family: Family; readonly mtus?: readonly PeerMtu[] },
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
    const from = `${LOCAL} ipproto ${UDP} sport ${policy.discoveryPort} uidrange ${policy.uid}-${policy.uid}`;
    rules.push(`pref ${numbers.first + DISCOVERY} ${from} lookup main`);
  }
  if (family === 4) rules.push(`pref ${numbers.first + LEASE} ${LOCAL} ipproto ${UDP} sport 68 dport 67 lookup main`);
  rules.push(`pref ${numbers.first + NO_WAY_OUT} ${numbers.mark} unreachable`);
  rules.push(`pref ${numbers.last} lookup ${numbers.table}`);

  return { rules: [...new Set(rules)], routes: wantedRoutes(policy, family, options.mtus ?? []) };
}

/** The ends come first: what shall enter the tunnel finds no way outside, also when the device is gone. */
function wantedRoutes(policy: ClientRoutesPolicy, family: Family, mtus: readonly PeerMtu[]): readonly string[] {
  const prefixes = policy.tunnelPrefixes.filter((prefix) => familyOf(prefix) === family);
  const inTunnel = prefixes.map(shortest);
  // A bridge on the very prefix of the tunnel loses: one prefix has one route.
  const local = policy.throwPrefixes
    .filter((prefix) => familyOf(prefix) === family && !policy.tunnelPrefixes.includes(prefix))
    .map(shortest);
  const way = policy.families[family];
  const ends = way === "own" ? inTunnel : ["default"];
  const ways = way === "tunnel" ? [...inTunnel, "default"] : inTunnel;
  const sized = mtus.flatMap(({ prefixes: all, mtu }) =>
    all.filter((prefix) => familyOf(prefix) === family).map((prefix) => ({ prefix, mtu })),
  );
  const sizes = new Map(sized.map(({ prefix, mtu }) => [shortest(prefix), mtu]));
  const own = sized.map(({ prefix }) => prefix).filter((prefix) => prefixes.some((wider) => isWithin(prefix, wider)));
  const lines = [
    ...ends.map((prefix) => `${END} ${prefix} metric ${LAST_METRIC}`),
    ...local.map((prefix) => `throw ${prefix}`),
    ...[...ways, ...own.map(shortest)].map((prefix) => withMtu(`${prefix} dev ${policy.interface}`, sizes.get(prefix))),
  ];
  return [...new Set(lines)];
}

const END = "unreachable";
/** What this machine sends itself. Without it a container's packets would be meant too: they count as root's when they are forwarded. */
const LOCAL = "iif lo";
/** Numbers: a machine without /etc/protocols, as small ones are, knows no names. */
const TCP = 6;
const UDP = 17;

function carrierRule({ address, port }: Endpoint, as: { readonly pref: number; readonly uid: number }): string {
  return `pref ${as.pref} to ${address} ${LOCAL} ipproto ${TCP} dport ${port} uidrange ${as.uid}-${as.uid} lookup main`;
}

function isWithin(prefix: Cidr, wider: Cidr): boolean {
  const { address, length } = cidrParts(prefix);
  return cidrContains(wider, address) && length >= cidrParts(wider).length;
}

function withMtu(line: string, mtu: number | undefined): string {
  return mtu === undefined ? line : `${line} mtu ${mtu}`;
}

/** As `ip` prints it: a host without its length, everything by its name. */
function shortest(prefix: string): string {
  if (prefix === "0.0.0.0/0" || prefix === "::/0") return "default";
  return prefix.replace(prefix.includes(":") ? /\/128$/ : /\/32$/, "");
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
  const oldRoutes = without(listed.routes, wanted.routes);
  // A route of another size takes the place of its like in one step.
  const replaced = new Set(oldRoutes.map(withoutMtu));
  const kept = new Set(newRoutes.map(withoutMtu));
  return [
    // What may pass outside must be able to before the rest cannot.
    ...missing.filter((line) => line !== tunnelRule).map((line) => `rule add ${line}`),
    // Then the ends of the table, so that taking a route away never opens a way outside.
    ...newRoutes.filter(isEnd).map((line) => `route add ${line} ${table}`),
    ...oldRoutes.filter((line) => !kept.has(withoutMtu(line))).map((line) => `route del ${line} ${table}`),
    ...newRoutes
      .filter((line) => !isEnd(line))
      .map((line) => `route ${replaced.has(withoutMtu(line)) ? "replace" : "add"} ${line} ${table}`),
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

function withoutMtu(line: string): string {
  return line.replace(/ mtu \d+$/, "");
}

function isEnd(line: string): boolean {
  return line.startsWith(`${END} `);
}

function without(lines: readonly string[], others: readonly string[]): readonly string[] {
  const known = new Set(others);
  return lines.filter((line) => !known.has(line));
}
