// The size of packets to single peers: a property of their routes, never of the device, which serves many paths.
import type { Cidr } from "../../base/ip.ts";
import { RoutesRefused } from "./errors.ts";

export interface PeerMtu {
  /** The peer's allowed prefixes: an exit's have 0.0.0.0/0 and ::/0 among them. */
  readonly prefixes: readonly Cidr[];
  /** Bytes, 1280 to what the device has: below 1280 the kernel takes IPv6 off. */
  readonly mtu: number;
}

export interface PeerMtus {
  /** Whole: a prefix that is not named has the device's size again. The device is up. Throws RoutesRefused below 1280. */
  apply(peers: readonly PeerMtu[], signal: AbortSignal): Promise<void>;
}

const LEAST_MTU = 1280;

/** Throws RoutesRefused. */
export function checkMtus(peers: readonly PeerMtu[]): void {
  for (const { mtu } of peers) {
    if (Number.isInteger(mtu) && mtu >= LEAST_MTU && mtu <= 0xffff) continue;
    throw new RoutesRefused(`Cannot give a peer's routes an MTU of ${mtu}: it is not between ${LEAST_MTU} and 65535.`, {
      code: "mtu-refused",
    });
  }
}
