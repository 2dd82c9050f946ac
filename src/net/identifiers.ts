// The fixed names and numbers by which higgs marks what is its own in the operating system, one set per role.
import type { Role } from "../proto/role.ts";

export interface Identifiers {
  readonly interface: string;
  /** nft table, family inet. */
  readonly table: string;
  /** nft tables of the same family: WireGuard's port shared with discovery, and paths that are left. */
  readonly demuxTable: string;
  readonly redirectTable: string;
  /** Connections that are kept on record; only an exit's are. */
  readonly logTable: string;
  /** nft table, family netdev, of a client that a person asked to stop raw frames too. */
  readonly egressTable: string;
  /** Where nft is missing: what the names of our chains of iptables begin with. */
  readonly chainPrefix: string;
  /** Firewall mark of WireGuard's own socket. */
  readonly mark: number;
  readonly markMask: number;
  /** Preferences of `ip rule` that are ours, inclusive; empty for a role that makes none. */
  readonly rulePrefs: { readonly first: number; readonly last: number } | null;
  readonly routeTable: number | null;
}

/** A node and a client may share a host: nothing here is used by both. */
export const IDENTIFIERS: Readonly<Record<Role, Identifiers>> = {
  client: {
    interface: "higgs0",
    table: "higgs_client",
    demuxTable: "higgs_client_demux",
    redirectTable: "higgs_client_redirect",
    logTable: "higgs_client_log",
    egressTable: "higgs_client_egress",
    chainPrefix: "higgs-client-",
    mark: 0x68000,
    markMask: 0xff000,
    rulePrefs: { first: 5210, last: 5270 },
    routeTable: 5270,
  },
  node: {
    interface: "higgsn0",
    table: "higgs_node",
    demuxTable: "higgs_node_demux",
    redirectTable: "higgs_node_redirect",
    logTable: "higgs_node_log",
    egressTable: "higgs_node_egress",
    chainPrefix: "higgs-node-",
    mark: 0x69000,
    markMask: 0xff000,
    rulePrefs: null,
    routeTable: null,
  },
};

/** Where the node's resolver listens on its tunnel addresses; nft brings every query of its clients here. */
export const RESOLVER_PORT = 5300;

/** Where nft is missing: what an exit forwards for its clients bears this, from its rules to the one that masquerades. */
export const FORWARDED_MARK = { mark: 0x6b000, mask: 0xff000 } as const;

/** Where nft is missing: of the datagram by which a node renews its lease. Not WireGuard's, whose packets go where others say. */
export const LEASE_MARK = { mark: 0x6c000, mask: 0xff000 } as const;
