// A port that this machine's router forwards to it: the interface, whatever protocol the router speaks.
import type { Endpoint, IpAddress } from "../../base/ip.ts";
import type { Service } from "../../base/service.ts";

/** In the order of preference: RFC 6887, RFC 6886, and UPnP's WANIPConnection or WANPPPConnection. */
export type PortMappingProtocol = "pcp" | "nat-pmp" | "upnp";

export interface PortMapping {
  readonly protocol: PortMappingProtocol;
  /** As the router says; whether it is true, only a check from outside shows. A global address, always. */
  readonly external: Endpoint;
}

export interface PortMapperOptions {
  /** The IPv4 gateway, and our own address on its network. */
  readonly gateway: IpAddress;
  readonly localAddress: IpAddress;
  /** The UDP port to be reached: discovery's `publicPort`. */
  readonly internalPort: number;
  /** After each change: a mapping came, moved to another address or port, or went (null). */
  readonly onChange: (mapping: PortMapping | null) => void;
  /**
   * How others see this machine, where that is known. A router that claims another address forwards somebody else's port, or
   * none: its mapping is taken back and not offered.
   */
  readonly publicAddress?: () => IpAddress | null;
  /** For a full tunnel: resolves when TCP to this address goes past it. Called before the first connection to an UPnP router. */
  readonly allowTcp?: (to: Endpoint) => Promise<void>;
  /** For a full tunnel: the mark of our own sockets, by which UDP goes past it (SO_MARK). */
  readonly mark?: number;
  /**
   * 12 bytes that stay the same over starts of this machine, and that nobody else knows: a PCP router lets only them change
   * the mapping that an earlier process left. Default: at random.
   */
  readonly nonce?: Uint8Array;
}

/**
 * Asks all protocols side by side, uses the best that answers, renews after ten minutes or half of the lease, asks
 * again when the router fell silent or lost the mapping, and takes the mapping back when it is disposed. Made for one gateway: another one needs another.
 */
export interface PortMapper extends Service {
  readonly current: PortMapping | null;
  /** False until the router has mapped a port, or a whole round was in vain. */
  readonly isAsked: boolean;
  /** Asks the router again now: after a change of the network or a sleep. */
  refresh(): void;
}
