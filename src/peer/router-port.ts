// The port that this machine's router maps to it on request: asked of the router of the moment, and of another when that changes.
import { cidrContains, type Cidr, type Endpoint, familyOf, type IpAddress, parseCidr } from "../base/ip.ts";
import type { Links } from "../net/links.ts";
import type { PortMapper, PortMapperOptions, PortMapping } from "../net/port-mapping/port-mapping.ts";

/** How routers are asked on this machine. */
export interface RouterAccess {
  readonly mapPort: (options: PortMapperOptions) => PortMapper;
  /** 12 bytes, the same at every start: what an earlier process left is taken over. */
  readonly nonce: Uint8Array;
  /** For a full tunnel: resolves when TCP to there goes past it. */
  readonly allowTcp?: (to: Endpoint) => Promise<void>;
}

export type RouterPortView =
  /** Switched off, or no port is looked for. */
  | { readonly state: "off" }
  /** No IPv4 router with a private address: there is nothing to map. */
  | { readonly state: "no-router" }
  | { readonly state: "asking"; readonly router: IpAddress | null }
  /** It speaks none of the protocols, refuses, or has no public address to give. */
  | { readonly state: "none"; readonly router: IpAddress }
  /** Its port belongs to an address by which nobody sees this machine. */
  | { readonly state: "elsewhere"; readonly router: IpAddress; readonly external: Endpoint }
  | ({ readonly state: "mapped"; readonly router: IpAddress } & PortMapping);

export interface RouterPortOptions {
  /** To be reached, on this machine. */
  readonly port: number;
  /** The tunnel's own: no router is in them. */
  readonly ranges: readonly Cidr[];
  /** As a server sees this machine; null before one was asked. */
  readonly publicAddress: () => IpAddress | null;
  readonly onChange: () => void;
}

export interface Router {
  readonly gateway: IpAddress;
  readonly localAddress: IpAddress;
}

/** RFC 1918, and RFC 6598 behind a provider's NAT. */
const PRIVATE = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"].flatMap(
  (text) => parseCidr(text) ?? [],
);

/**
 * Who would have to map a port: the best IPv4 gateway, if it is a neighbour and both of us have private addresses. Whoever runs
 * the LAN can name any address as its gateway, and must not get at packets for the internet that way.
 */
export function routerOf(links: Links, ranges: readonly Cidr[]): Router | null {
  const isPrivate = (address: IpAddress): boolean =>
    PRIVATE.some((range) => cidrContains(range, address)) && !ranges.some((range) => cidrContains(range, address));
  const uplink = links.uplinks.find((one) => one.family === 4);
  const gateway = uplink?.gateway ?? null;
  if (uplink === undefined || gateway === null || familyOf(gateway) !== 4 || !isPrivate(gateway)) return null;
  const own = links.addresses.find(({ interface: name, address, prefixLength, scope }) => {
    if (name !== uplink.interface || scope !== "global" || familyOf(address) !== 4 || !isPrivate(address)) return false;
    const prefix = parseCidr(`${address}/${prefixLength}`);
    return prefix !== null && cidrContains(prefix, gateway);
  });
  return own === undefined ? null : { gateway, localAddress: own.address };
}

export class RouterPort implements AsyncDisposable {
  readonly #access: RouterAccess | null;
  readonly #options: RouterPortOptions;
  readonly #closing = new Set<Promise<void>>();
  #held: { readonly router: Router; readonly mapper: PortMapper } | null = null;
  #isLedNowhere = false;
  #isOver = false;

  constructor(access: RouterAccess | null, options: RouterPortOptions) {
    this.#access = access;
    this.#options = options;
  }

  /** Asks the router that these links lead to; what another one mapped is taken back there. */
  follow(links: Links): void {
    if (this.#access === null || this.#isOver) return;
    const router = routerOf(links, this.#options.ranges);
    this.#isLedNowhere = router === null;
    const before = this.#held;
    if (before !== null && router !== null && Bun.deepEquals(before.router, router)) {
      if (this.view.state === "elsewhere") before.mapper.refresh(); // which judges it again, and gives it back
      return;
    }
    this.#close();
    if (router === null) return;
    const { nonce, allowTcp, mapPort } = this.#access;
    const { port: internalPort, publicAddress, onChange } = this.#options;
    const options = { ...router, internalPort, publicAddress, nonce, onChange };
    this.#held = { router, mapper: mapPort(allowTcp === undefined ? options : { ...options, allowTcp }) };
  }

  /** The network changed, and the router may be another with the same address. */
  refresh(): void {
    this.#held?.mapper.refresh();
  }

  get view(): RouterPortView {
    if (this.#access === null) return { state: "off" };
    if (this.#held === null) return this.#isLedNowhere ? { state: "no-router" } : { state: "asking", router: null };
    const { mapper, router } = this.#held;
    const { current } = mapper;
    if (current === null) return { state: mapper.isAsked ? "none" : "asking", router: router.gateway };
    const seen = this.#options.publicAddress();
    const { external } = current;
    if (seen !== null && seen !== external.address) return { state: "elsewhere", router: router.gateway, external };
    return { state: "mapped", router: router.gateway, ...current };
  }

  /** What peers may be told. */
  get endpoints(): readonly Endpoint[] {
    const { view } = this;
    return view.state === "mapped" ? [view.external] : [];
  }

  #close(): void {
    const held = this.#held;
    this.#held = null;
    if (held === null) return;
    const closing: Promise<void> = Promise.resolve(held.mapper[Symbol.asyncDispose]()).finally(() =>
      this.#closing.delete(closing),
    );
    this.#closing.add(closing);
  }

  /** Resolves when the router was told, or has not listened for a second and a half. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    this.#close();
    await Promise.all(this.#closing);
  }
}
