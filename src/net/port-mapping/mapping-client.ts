// What the three protocols of port mapping have in common: a mapping is asked for, renewed and taken back.
import { type Cidr, cidrContains, type Endpoint, familyOf, type IpAddress } from "../../base/ip.ts";
import type { PortMappingProtocol } from "./port-mapping.ts";

/** Long enough that a lost renewal hurts nobody, short enough that a router forgets a machine that is gone the same day. */
export const LEASE_S = 7200;
/** A router that gives less does not mean it. */
export const LEAST_LEASE_S = 60;
/** When a request is repeated, and when it is given up. The first pause is as RFC 6886 section 3.1 has it. */
export const ASK_MS: readonly number[] = [0, 250, 750, 1500];

export interface Granted {
  readonly external: Endpoint;
  readonly lifetimeS: number;
}

export interface MappingClient {
  readonly protocol: PortMappingProtocol;
  /** Makes or renews; null when the router did not. `before` is what it gave last time. */
  map(before: Granted | null, signal: AbortSignal): Promise<Granted | null>;
  /** As far as the router listens. */
  unmap(granted: Granted, signal: AbortSignal): Promise<void>;
}

const NOT_GLOBAL = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.168.0.0/16",
  "224.0.0.0/3",
] as unknown as readonly Cidr[];

/** Null unless the mapping is one that somebody out there could use, and lasts. A private address is that of a second NAT. */
export function usable(granted: Granted): Granted | null {
  const { external, lifetimeS } = granted;
  if (external.port === 0 || lifetimeS < LEAST_LEASE_S || !isGlobal(external.address)) return null;
  return { external, lifetimeS: Math.min(lifetimeS, LEASE_S) };
}

export function isGlobal(address: IpAddress): boolean {
  return familyOf(address) === 4 && !NOT_GLOBAL.some((range) => cidrContains(range, address));
}
