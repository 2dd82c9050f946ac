// Rules and routes as `ip -N -j` lists them, in the words of `ip -batch`.
import { z } from "zod";
import { CARRIER, DISCOVERY, LEASE, type RouteNumbers } from "./rules.ts";

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
      const excepted = [CARRIER, DISCOVERY, LEASE].some((distance) => rule.priority === numbers.first + distance);
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
  if (rule.ipproto !== undefined) parts.push(`ipproto ${protocolNumber(rule.ipproto)}`);
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
  metrics: z.array(z.looseObject({ mtu: z.number().optional() })).optional(),
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
  const mtu = route.metrics?.find((metrics) => metrics.mtu !== undefined)?.mtu;
  if (mtu !== undefined) parts.push(`mtu ${mtu}`);
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
const PROTOCOLS: Readonly<Record<string, string>> = { tcp: "6", udp: "17" };

function typeName(type: string): string {
  return TYPES[type] ?? type;
}

function tableName(table: string): string {
  return TABLES[table] ?? table;
}

/** Older versions name it in spite of `-N`. */
function protocolNumber(protocol: string): string {
  return PROTOCOLS[protocol] ?? protocol.replace(/^ipproto-/, "");
}
