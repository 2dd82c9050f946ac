// What the owner of a node decides about its exit, as a person writes it, as the firewall needs it, and as clients are told it.
import {
  type Cidr,
  cidrParts,
  cidrsOverlap,
  familyOf,
  hostCidr,
  type IpAddress,
  parseCidr,
  parseIp,
} from "../base/ip.ts";
import { isMachineName, type MachineName } from "../base/hostname.ts";
import { type ExitOutlet, NEVER4, NEVER6 } from "../net/firewall/exit.ts";
import { type ExitTerms, MOST_TERMS, type PortRange } from "../proto/exit-terms.ts";

export interface OpenedLan {
  readonly prefix: Cidr;
  /** Null for every client. */
  readonly client: MachineName | null;
}

export interface ExitRules {
  /** Null for all. */
  readonly ports: readonly PortRange[] | null;
  readonly closed: readonly Cidr[];
  readonly lan: readonly OpenedLan[];
  readonly mail: boolean;
  /** Days that connections are kept on record; 0 for none. */
  readonly logDays: number;
}

/** Parts of one's own network, not continents. */
const SHORTEST_LAN = { 4: 8, 6: 32 } as const;

/** `443`, `1000-2000`, `tcp/22`, `udp/500-600`; without a protocol both. Null for anything else. */
export function parsePorts(text: string): readonly PortRange[] | null {
  const match = /^(?:(tcp|udp)\/)?(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  if (match === null) return null;
  const first = Number(match[2]);
  const last = Number(match[3] ?? match[2]);
  if (first < 1 || last < first || last > 65_535) return null;
  const protocols =
    match[1] === undefined ? (["tcp", "udp"] as const) : ([match[1] === "tcp" ? "tcp" : "udp"] as const);
  return protocols.map((protocol) => ({ protocol, first, last }));
}

/** A prefix, or an address alone. */
export function parsePrefix(text: string): Cidr | null {
  const address = parseIp(text);
  return address === null ? parseCidr(text) : hostCidr(address);
}

/** `PREFIX`, or `PREFIX@CLIENT`. A sentence's end for what cannot be opened. */
export function parseLan(text: string): OpenedLan | string {
  const [where = "", client, more] = text.split("@");
  const prefix = parsePrefix(where);
  if (prefix === null || more !== undefined) return "is no PREFIX or PREFIX@CLIENT";
  if (client !== undefined && !isMachineName(client)) return `has no name of a machine after the @`;
  if (cidrParts(prefix).length < SHORTEST_LAN[familyOf(prefix)]) return "is wider than any home";
  const never = [...NEVER4, ...NEVER6].find((one) => familyOf(one) === familyOf(prefix) && cidrsOverlap(one, prefix));
  // A network around one of them may be opened: the addresses in it stay closed.
  if (never !== undefined && cidrParts(never).length <= cidrParts(prefix).length)
    return `is in ${never}, which is never opened`;
  return { prefix, client: client ?? null };
}

/** `off`, or a number of days such as `7d`. Null for anything else. */
export function parseLogDays(text: string): number | null {
  if (text === "off") return 0;
  const days = Number(/^(\d{1,2})d$/.exec(text)?.[1]);
  return days >= 1 && days <= MOST_TERMS.logDays ? days : null;
}

/** `addressesOf`: the tunnel addresses of a client in session; none for one that is not. */
export function outletOf(rules: ExitRules, addressesOf: (name: MachineName) => readonly IpAddress[]): ExitOutlet {
  const lan = rules.lan.flatMap(({ prefix, client }): ExitOutlet["lan"] => {
    if (client === null) return [{ prefix, sources: null }];
    const sources = addressesOf(client).filter((address) => familyOf(address) === familyOf(prefix));
    return sources.length === 0 ? [] : [{ prefix, sources: sources.toSorted() }];
  });
  return { ports: rules.ports, mail: rules.mail, closed: rules.closed, lan };
}

/** Clients learn that some may reach a part of the owner's place, not which. */
export function termsOf(rules: ExitRules, more: { readonly filtersNames: boolean }): ExitTerms {
  const opened = new Map<Cidr, boolean>();
  for (const { prefix, client } of rules.lan) opened.set(prefix, opened.get(prefix) === true || client === null);
  return {
    mail: rules.mail,
    ports: rules.ports,
    closed: rules.closed,
    opened: [...opened].map(([prefix, forAll]) => ({ prefix, forAll })),
    filtersNames: more.filtersNames,
    logDays: rules.logDays,
    isWhole: true,
  };
}
