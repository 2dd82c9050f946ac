// The rules by which a second socket shares WireGuard's UDP port: STUN messages go to it, and what it sends leaves from WireGuard's port.
//
// What tells a STUN message from a WireGuard packet, in the UDP payload:
//   | 00 | STUN type 14 bits | length u16 | cookie u32 = 0x2112a442 | …
//   | WireGuard type u8 = 1..4 | 0 u24 | index u32 | …
// A WireGuard packet begins with 0x0100 to 0x0400, which is no STUN type of ours, whatever its index may be. `@th` counts bits
// from the start of the UDP header, which has 64.
import type { NftTable } from "../firewall/nft-table.ts";

/** Binding request, indication, success and error (RFC 8489 section 5). */
export const STUN_TYPES = "{ 0x0001, 0x0011, 0x0101, 0x0111 }";
export const STUN_COOKIE = "@th,96,32 0x2112a442";

/** After the host's own filters (0), which so see one flow on WireGuard's port, and let in what answers it. */
const AFTER_FILTERS = 100;
/** Before connection tracking (-200), for the same reason. */
const RAW = -300;
const BEFORE_FILTERS = -10;

export interface SharedPort {
  readonly wireGuard: number;
  readonly discovery: number;
  /** Whose socket discovery's is: once it is closed, the port may be anybody's. */
  readonly uid: number;
}

export function demuxTable(name: string, shared: SharedPort): NftTable {
  const { wireGuard, discovery, uid } = shared;
  return {
    name,
    sets: [],
    chains: [
      {
        name: "guard",
        type: "filter",
        hook: "input",
        priority: BEFORE_FILTERS,
        policy: "accept",
        rules: [{ text: `udp dport ${discovery} drop`, why: "by WireGuard's port only" }],
      },
      {
        name: "arriving",
        type: "filter",
        hook: "input",
        priority: AFTER_FILTERS,
        policy: "accept",
        rules: [
          {
            text: `udp dport ${wireGuard} @th,64,16 ${STUN_TYPES} ${STUN_COOKIE} udp dport set ${discovery}`,
            why: "STUN goes to discovery",
          },
        ],
      },
      {
        name: "leaving",
        type: "filter",
        hook: "output",
        priority: RAW,
        policy: "accept",
        rules: [
          {
            text: `meta skuid ${uid} udp sport ${discovery} udp sport set ${wireGuard}`,
            why: "as if WireGuard had sent it",
          },
        ],
      },
    ],
  };
}
