// The machine's own links: interfaces with a default route, gateways, connected prefixes and addresses, read and watched.
import type { Cidr, Family, IpAddress } from "../base/ip.ts";

/** One way out: an interface with a default route in one family. */
export interface Uplink {
  readonly interface: string;
  readonly family: Family;
  /** Null on point-to-point links such as ppp0. */
  readonly gateway: IpAddress | null;
  /** Of IPv6 without a metric of its own: 1024, the kernel's. */
  readonly metric: number;
}

export interface ConnectedPrefix {
  readonly interface: string;
  readonly prefix: Cidr;
}

export interface LocalAddress {
  readonly interface: string;
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly scope: "global" | "link" | "other";
  /** IPv6: a privacy address, one that is going out of use, one that is not usable yet. */
  readonly temporary: boolean;
  readonly deprecated: boolean;
  readonly tentative: boolean;
}

/** Everything except the interfaces that are higgs's own, and loopback. */
export interface Links {
  /** Best metric first. */
  readonly uplinks: readonly Uplink[];
  readonly connected: readonly ConnectedPrefix[];
  readonly addresses: readonly LocalAddress[];
  /** Prefixes that this machine was delegated: unreachable routes of IPv6, as routers keep them. */
  readonly delegated: readonly Cidr[];
  /** Bytes, by interface. */
  readonly mtus: ReadonlyMap<string, number>;
}
