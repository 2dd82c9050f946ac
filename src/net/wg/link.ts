// The device as an interface: its kind, MTU and addresses as `ip` shows them, and the lines that make them as wanted.
import { z } from "zod";
import { type Cidr, familyOf, hostCidr, type IpAddress, parseIp } from "../../base/ip.ts";
import { HiggsError } from "../../base/errors.ts";
import type { Exec } from "../exec.ts";
import { output } from "../exec.ts";
import { isInterfaceName } from "../interface-name.ts";

export interface LinkState {
  /** "wireguard" for the kernel's, "tun" for one that a program serves, or any other; "" for what has none (a real card). */
  readonly kind: string;
  readonly mtu: number;
  readonly isUp: boolean;
  readonly addresses: readonly { readonly address: IpAddress; readonly prefixLength: number }[];
}

export class LinkUnreadable extends HiggsError {
  override readonly name = "LinkUnreadable";
}

const shown = z.array(
  z.object({
    ifname: z.string(),
    mtu: z.number(),
    flags: z.array(z.string()),
    linkinfo: z.object({ info_kind: z.string().optional() }).optional(),
    addr_info: z
      .array(z.object({ local: z.string().optional(), prefixlen: z.number().optional(), scope: z.string().optional() }))
      .optional(),
  }),
);

/** Null when there is no such interface. */
export async function readLink(exec: Exec, name: string, signal: AbortSignal): Promise<LinkState | null> {
  const result = await exec.run(["ip", "-j", "-d", "addr", "show", "dev", checked(name)], { signal });
  if (result.code !== 0 && /does not exist/.test(result.stderr)) return null;
  if (result.code !== 0) throw unreadable(name, result.stderr.trim());
  return linkFrom(result.stdout, name);
}

/** From the JSON of `ip -j -d addr show dev NAME`. */
export function linkFrom(json: string, name: string): LinkState | null {
  const parsed = shown.safeParse(jsonOrNull(json));
  if (!parsed.success) throw unreadable(name, "its JSON is not as expected");
  const link = parsed.data.find((one) => one.ifname === name);
  if (link === undefined) return null;
  const addresses = (link.addr_info ?? []).flatMap((one) => {
    const address = parseIp(one.local ?? "");
    return address === null || one.scope === "link" ? [] : [{ address, prefixLength: one.prefixlen ?? 0 }];
  });
  return {
    kind: link.linkinfo?.info_kind ?? "",
    mtu: link.mtu,
    isUp: link.flags.includes("UP"),
    addresses,
  };
}

/** Lines for `ip -batch -`: what differs, in an order that never leaves the interface without an address it keeps. */
export function linkLines(
  name: string,
  now: LinkState,
  wanted: { readonly mtu: number; readonly addresses: readonly IpAddress[]; readonly hasIpv6: boolean },
): readonly string[] {
  const lines: string[] = [];
  if (now.mtu !== wanted.mtu) lines.push(`link set dev ${checked(name)} mtu ${wanted.mtu}`);
  // Without it the kernel gives itself a link-local address as soon as the link is up, and solicits routers in the tunnel.
  if (wanted.hasIpv6 && !now.isUp) lines.push(`link set dev ${checked(name)} addrgenmode none`);
  const addresses = wanted.addresses.filter((address) => wanted.hasIpv6 || familyOf(address) === 4).map(hostCidr);
  const there = now.addresses.map((one) => `${one.address}/${one.prefixLength}`);
  for (const cidr of addresses) {
    if (there.includes(cidr)) continue;
    // No detection of duplicates: there is nobody on this link to ask, and the address must serve at once.
    lines.push(`addr add ${cidr} dev ${checked(name)}${familyOf(cidr) === 6 ? " nodad" : ""}`);
  }
  for (const cidr of there) {
    if (!addresses.some((one) => one === cidr)) lines.push(`addr del ${cidr} dev ${checked(name)}`);
  }
  return lines;
}

const routes = z.array(z.object({ dst: z.string() }));

/** Prefixes that the main table already leads to the interface, in both families. */
export async function readRoutes(exec: Exec, name: string, signal: AbortSignal): Promise<readonly string[]> {
  const found: string[] = [];
  for (const family of ["-4", "-6"]) {
    const argv = ["ip", "-j", family, "route", "show", "table", "main", "dev", checked(name)] as const;
    const result = await exec.run(argv, { signal });
    // A kernel without IPv6 has no such table.
    if (result.code !== 0) continue;
    const parsed = routes.safeParse(jsonOrNull(result.stdout.trim() || "[]"));
    if (!parsed.success) throw unreadable(name, "the JSON of its routes is not as expected");
    found.push(...parsed.data.map((route) => route.dst));
  }
  return found;
}

/** Lines for `ip -batch -`: the prefixes that are not routed to the interface yet. It must be up. */
export function routeLines(
  name: string,
  there: readonly string[],
  wanted: { readonly prefixes: readonly Cidr[]; readonly hasIpv6: boolean },
): readonly string[] {
  return wanted.prefixes
    .filter((prefix) => !there.includes(prefix) && (wanted.hasIpv6 || familyOf(prefix) === 4))
    .map((prefix) => `route add ${prefix} dev ${checked(name)}`);
}

export async function applyLines(exec: Exec, lines: readonly string[], signal: AbortSignal): Promise<void> {
  if (lines.length > 0) await output(exec, ["ip", "-batch", "-"], { stdin: `${lines.join("\n")}\n`, signal });
}

function checked(name: string): string {
  if (isInterfaceName(name)) return name;
  throw new LinkUnreadable(`Cannot use "${name}" as the name of an interface.`, { code: "interface-name-invalid" });
}

function jsonOrNull(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // the schema refuses it
  }
}

function unreadable(name: string, why: string): LinkUnreadable {
  return new LinkUnreadable(`Cannot read the interface "${name}": ${why}.`, {
    code: "link-unreadable",
    detail: { name },
  });
}
