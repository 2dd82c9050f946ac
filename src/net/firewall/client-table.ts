// The rules of a client's firewall, one table for each situation.
import { type Endpoint, familyOf, type IpAddress } from "../../base/ip.ts";
import type { ClientFirewallPolicy } from "./client.ts";
import { type NftChain, type NftRule, type NftTable, quotedInterface } from "./nft-table.ts";

/** Before discovery's port is rewritten at -300, while it can still be recognised. */
const BEFORE_RAW = -301;
/** After connection tracking (-200), which knows the flow, and before routing. */
const MANGLE = -150;

export interface Mark {
  readonly mark: number;
  readonly markMask: number;
}

/**
 * What goes past the tunnel: WireGuard's own socket, which comes marked, and the carrier and discovery, which rules of
 * routing select by address, port and user. The mark is kept with the flow and put on its answers: a strict reverse path
 * filter looks the way back up by mark, and would see the tunnel's route without it.
 */
export function clientTable(
  name: string,
  options: { readonly policy: ClientFirewallPolicy; readonly mark: Mark },
): NftTable {
  const { policy, mark } = options;
  const tunnel = quotedInterface(policy.interface);
  const ours = `0x${mark.mark.toString(16)}`;
  const mask = `0x${mark.markMask.toString(16)}`;
  /** The bits of others stay as they are. */
  const kept = `0x${(~mark.markMask >>> 0).toString(16)}`;
  const setMark = `meta mark set meta mark & ${kept} | ${ours}`;

  const markOut: NftChain = {
    name: "mark_out",
    type: "filter",
    hook: "output",
    priority: BEFORE_RAW,
    policy: "accept",
    rules: [
      ...policy.carrier.map((endpoint) => rule(`meta skuid ${policy.uid} ${carrier(endpoint)} ${setMark}`, "carrier")),
      ...(policy.discoveryPort === undefined
        ? []
        : [rule(`meta skuid ${policy.uid} udp sport ${policy.discoveryPort} ${setMark}`, "discovery")]),
    ],
  };
  const keepMark: NftChain = {
    name: "keep_mark",
    type: "filter",
    hook: "output",
    priority: MANGLE,
    policy: "accept",
    rules: [rule(`meta mark & ${mask} == ${ours} ct mark set ct mark & ${kept} | ${ours}`, "past the tunnel")],
  };
  const putMark: NftChain = {
    name: "put_mark",
    type: "filter",
    hook: "prerouting",
    priority: MANGLE,
    policy: "accept",
    rules: [
      ...policy.addresses.map((address) =>
        rule(`iifname != { "lo", ${tunnel} } ${daddr(address)} drop`, "tunnel address by the tunnel only"),
      ),
      rule(`iifname != ${tunnel} ct mark & ${mask} == ${ours} ${setMark}`, "answers past the tunnel"),
    ],
  };
  return { name, sets: [], chains: [markOut, keepMark, putMark] };
}

function carrier({ address, port }: Endpoint): string {
  return `${daddr(address)} tcp dport ${port}`;
}

function daddr(address: IpAddress): string {
  return familyOf(address) === 4 ? `ip daddr ${address}` : `ip6 daddr ${address}`;
}

function rule(text: string, why: string): NftRule {
  return { text, why };
}
