// The rules that move a running tunnel: one chain on the way out, one on the way in, both for WireGuard's own port, and as many for side ports.
import { type Endpoint, familyOf } from "../base/ip.ts";
import { STUN_COOKIE } from "./discovery/demux-table.ts";
import type { NftChain, NftRule, NftTable } from "./firewall/nft-table.ts";
import { type RedirectPolicy, RedirectRefused, type SidePath } from "./redirect.ts";

/** Right after discovery's messages got WireGuard's port (-300), so that they are told from WireGuard's packets by their cookie alone. */
const AFTER_DEMUX = -290;
/** Before STUN messages are handed to discovery (100), while they still have WireGuard's port. */
const BEFORE_DEMUX = 90;

/** Once it is settled where a packet goes, and before connection tracking (-200), which so sees one flow on the side port. */
const AFTER_REDIRECT = -285;
/** After the host's own filters (0), which so let in what answers that flow. */
const AFTER_FILTERS = 100;

/** Null for a policy that wants nothing. Throws RedirectRefused. */
export function redirectTable(name: string, policy: RedirectPolicy): NftTable | null {
  const { wireGuardPort, redirects, dropFrom, sides = [] } = policy;
  if (redirects.length === 0 && dropFrom.length === 0 && sides.length === 0) return null;
  const leaving = redirects.map((redirect): NftRule => {
    const { from, to, source } = redirect;
    if (familyOf(from.address) !== familyOf(to.address)) throw otherFamily(redirect);
    const family = familyOf(from.address) === 4 ? "ip" : "ip6";
    const match = `${family} daddr ${from.address} udp dport ${from.port}`;
    const ours = source === undefined ? "" : `${family} saddr set ${source} `;
    return {
      text: `${match} ${ours}${family} daddr set ${to.address} udp dport set ${to.port} accept`,
      why: "to the new path",
    };
  });
  return {
    name,
    sets: [],
    chains: [
      {
        name: "leaving",
        type: "route", // another address may be on another link
        hook: "output",
        priority: AFTER_DEMUX,
        policy: "accept",
        rules: [...others(`udp sport != ${wireGuardPort}`), ...leaving],
      },
      {
        name: "arriving",
        type: "filter",
        hook: "input",
        priority: BEFORE_DEMUX,
        policy: "accept",
        rules: [...others(`udp dport != ${wireGuardPort}`), ...dropRules(dropFrom)],
      },
      ...(sides.length === 0 ? [] : sideChains(wireGuardPort, sides)),
    ],
  };
}

function sideChains(wireGuardPort: number, sides: readonly SidePath[]): readonly NftChain[] {
  const at = ({ peer }: SidePath, end: "s" | "d"): string =>
    `${familyOf(peer.address) === 4 ? "ip" : "ip6"} ${end}addr ${peer.address} udp ${end}port ${peer.port}`;
  return [
    {
      name: "side_leaving",
      type: "filter",
      hook: "output",
      priority: AFTER_REDIRECT,
      policy: "accept",
      rules: [
        ...others(`udp sport != ${wireGuardPort}`),
        ...sides
          .filter(({ leaves }) => leaves)
          .map((side) => ({ text: `${at(side, "d")} udp sport set ${side.port} accept`, why: "by the side port" })),
      ],
    },
    {
      name: "side_arriving",
      type: "filter",
      hook: "input",
      priority: AFTER_FILTERS,
      policy: "accept",
      rules: [
        ...others(`udp dport ${wireGuardPort}`, "WireGuard's own port"),
        ...sides.map((side) => ({
          text: `${at(side, "s")} udp dport ${side.port} udp dport set ${wireGuardPort} accept`,
          why: "to WireGuard",
        })),
      ],
    },
  ];
}

/** First of all, as every packet of the machine comes by. */
function others(otherPort: string, why = "not WireGuard"): readonly NftRule[] {
  return [
    { text: "meta l4proto != udp accept", why: "not WireGuard" },
    { text: `${otherPort} accept`, why },
    { text: `${STUN_COOKIE} accept`, why: "path checks" },
  ];
}

function dropRules(from: readonly Endpoint[]): readonly NftRule[] {
  const rule = (family: "ip" | "ip6", size: 4 | 6): readonly NftRule[] => {
    const elements = from
      .filter(({ address }) => familyOf(address) === size)
      .map(({ address, port }) => `${address} . ${port}`);
    if (elements.length === 0) return [];
    const set = [...new Set(elements)].sort().join(", ");
    return [{ text: `${family} saddr . udp sport { ${set} } drop`, why: "a path given up" }];
  };
  return [...rule("ip", 4), ...rule("ip6", 6)];
}

function otherFamily({ from, to }: RedirectPolicy["redirects"][number]): RedirectRefused {
  return new RedirectRefused(`Cannot redirect from ${from.address} to ${to.address}: they are of different families.`, {
    code: "redirect-family",
  });
}
