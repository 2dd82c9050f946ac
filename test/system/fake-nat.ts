// A router of each kind as two tables: which public port a flow gets, and who may answer to it.
import type { Endpoint, IpAddress } from "../../src/base/ip.ts";
import { formatEndpoint } from "../../src/base/ip.ts";

export const NAT_KINDS = [
  "1:1",
  "full",
  "addr-r",
  "port-r",
  "eim-np",
  "sym-seq",
  "sym-adm",
  "sym-rand",
  "udp-block",
] as const;
/** "accept-input" is a port-restricted router that takes unsolicited packets itself, and so loses the port that they came to. */
export type NatKind = (typeof NAT_KINDS)[number] | "accept-input";

interface Mapping {
  readonly inner: Endpoint;
  readonly port: number;
  readonly sentTo: Map<string, number>;
  usedAt: number;
}

/** Home routers forget after this long without a packet from the inside. */
const FORGET_MS = 30_000;
const FIRST_RANDOM_PORT = 30_000;

export class FakeNat {
  readonly kind: NatKind;
  readonly forgetMs: number;
  publicAddress: IpAddress;
  readonly #now: () => number;
  readonly #random: () => number;
  readonly #byFlow = new Map<string, Mapping>();
  readonly #byPort = new Map<number, Mapping>();
  /** What the router believes to be talking to itself. */
  readonly #poisoned = new Set<string>();
  #nextPort = 40_000;

  constructor(
    kind: NatKind,
    options: {
      readonly publicAddress: IpAddress;
      readonly now: () => number;
      readonly random: () => number;
      readonly forgetMs?: number;
    },
  ) {
    this.kind = kind;
    this.publicAddress = options.publicAddress;
    this.forgetMs = options.forgetMs ?? FORGET_MS;
    this.#now = options.now;
    this.#random = options.random;
  }

  /** The source that the world sees; null for what is not let out. */
  outbound(inner: Endpoint, to: Endpoint): Endpoint | null {
    if (this.kind === "udp-block") return null;
    const key = this.#flowKey(inner, to);
    let mapping = this.#byFlow.get(key);
    if (mapping === undefined || this.#isOld(mapping)) {
      if (mapping !== undefined) this.#byPort.delete(mapping.port);
      mapping = { inner, port: this.#portFor(inner, to), sentTo: new Map(), usedAt: this.#now() };
      this.#byFlow.set(key, mapping);
      this.#byPort.set(mapping.port, mapping);
    }
    mapping.usedAt = this.#now();
    mapping.sentTo.set(formatEndpoint(to), this.#now());
    mapping.sentTo.set(to.address, this.#now());
    return { address: this.publicAddress, port: mapping.port };
  }

  /** Who inside gets it; null for what is filtered. */
  inbound(port: number, from: Endpoint): Endpoint | null {
    const mapping = this.#byPort.get(port);
    const isKnown = mapping !== undefined && !this.#isOld(mapping);
    if (this.kind === "1:1" && mapping !== undefined) return mapping.inner;
    if (isKnown && this.#lets(mapping, from)) return mapping.inner;
    if (this.kind === "accept-input") this.#poisoned.add(`${port} ${formatEndpoint(from)}`);
    return null;
  }

  /** As after a power cut. */
  forget(): void {
    this.#byFlow.clear();
    this.#byPort.clear();
  }

  #isOld(mapping: Mapping): boolean {
    return this.#now() - mapping.usedAt > this.forgetMs;
  }

  #flowKey(inner: Endpoint, to: Endpoint): string {
    const source = formatEndpoint(inner);
    if (this.kind === "sym-adm") return `${source} ${to.address}`;
    if (this.kind === "sym-seq" || this.kind === "sym-rand") return `${source} ${formatEndpoint(to)}`;
    if (this.kind === "accept-input" && this.#poisoned.has(`${inner.port} ${formatEndpoint(to)}`)) {
      return `${source} ${formatEndpoint(to)}`;
    }
    return source;
  }

  #portFor(inner: Endpoint, to: Endpoint): number {
    switch (this.kind) {
      case "eim-np":
      case "sym-rand":
      case "sym-adm":
        return this.#freePort();
      case "sym-seq":
        return this.#nextPort++;
      case "accept-input":
        return this.#poisoned.has(`${inner.port} ${formatEndpoint(to)}`) ? this.#freePort() : inner.port;
      default:
        return this.#byPort.has(inner.port) ? this.#freePort() : inner.port;
    }
  }

  #freePort(): number {
    for (;;) {
      const port = FIRST_RANDOM_PORT + Math.floor(this.#random() * 30_000);
      if (!this.#byPort.has(port)) return port;
    }
  }

  #lets(mapping: Mapping, from: Endpoint): boolean {
    if (this.kind === "full" || this.kind === "1:1") return true;
    const at = mapping.sentTo.get(this.kind === "addr-r" ? from.address : formatEndpoint(from));
    return at !== undefined && this.#now() - at <= this.forgetMs;
  }
}
