// The chains that mark what a client sends past its tunnel, and recognise the answers.
import { type Endpoint, familyOf, type IpAddress } from "../../base/ip.ts";
import type { OwnTraffic, TunnelEnd } from "./client.ts";
import { type NftChain, type NftRule, quotedInterface } from "./nft-table.ts";

/** Before discovery's port is rewritten at -300, while it can still be recognised. */
const BEFORE_RAW = -301;
/** After connection tracking (-200), which knows the flow, and before routing. */
const MANGLE = -150;

export interface Mark {
  readonly mark: number;
  readonly markMask: number;
}

/** Matches what has our mark, whatever bits others have set. */
export function isMarked({ mark, markMask }: Mark): string {
  return `meta mark & 0x${markMask.toString(16)} == 0x${mark.toString(16)}`;
}

/**
 * What goes past the tunnel: WireGuard's own socket, which comes marked, and the carrier and discovery, which rules of
 * routing select by address, port and user. The mark is kept with the flow and put on its answers: a strict reverse path
 * filter looks the way back up by mark, and would see the tunnel's route without it.
 */
export function markChains(own: OwnTraffic, tunnelEnd: TunnelEnd, mark: Mark): readonly NftChain[] {
  const tunnel = quotedInterface(tunnelEnd.interface);
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
      ...own.carrier.map((endpoint) => rule(`${carrierMatch(own.uid, endpoint)} ${setMark}`, "carrier")),
      ...(own.discoveryPort === undefined
        ? []
        : [rule(`meta skuid ${own.uid} udp sport ${own.discoveryPort} ${setMark}`, "discovery")]),
    ],
  };
  const keepMark: NftChain = {
    name: "keep_mark",
    type: "filter",
    hook: "output",
    priority: MANGLE,
    policy: "accept",
    rules: [rule(`${isMarked(mark)} ct mark set ct mark & ${kept} | ${ours}`, "past the tunnel")],
  };
  const putMark: NftChain = {
    name: "put_mark",
    type: "filter",
    hook: "prerouting",
    priority: MANGLE,
    policy: "accept",
    rules: [
      ...tunnelEnd.addresses.map((address) =>
        rule(`iifname != { "lo", ${tunnel} } ${daddr(address)} drop`, "tunnel address by the tunnel only"),
      ),
      rule(`iifname != ${tunnel} ct mark & ${mask} == ${ours} ${setMark}`, "answers past the tunnel"),
    ],
  };
  return [markOut, keepMark, putMark];
}

/** The carrier's TCP to one server or proxy: by user, address and port. */
export function carrierMatch(uid: number, { address, port }: Endpoint): string {
  return `meta skuid ${uid} ${daddr(address)} tcp dport ${port}`;
}

function daddr(address: IpAddress): string {
  return familyOf(address) === 4 ? `ip daddr ${address}` : `ip6 daddr ${address}`;
}

function rule(text: string, why: string): NftRule {
  return { text, why };
}
