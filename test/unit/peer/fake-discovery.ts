// A discovery socket that writes down what is sent, a redirect that keeps its policy, and a bridge that keeps its detour.
import { type Endpoint, formatEndpoint, type IpAddress, parseEndpoint } from "../../../src/base/ip.ts";
import type { Logger } from "../../../src/base/log.ts";
import type { Deliver, Discovery, DiscoveryMechanism, SidePort } from "../../../src/net/discovery/discovery.ts";
import type { Redirect, RedirectPolicy } from "../../../src/net/redirect.ts";
import type { Bridge } from "../../../src/peer/bridge.ts";

const silent = (): void => undefined;
export const SILENT: Logger = {
  error: silent,
  warn: silent,
  info: silent,
  debug: silent,
  trace: silent,
  child: () => SILENT,
};

export function endpointOf(text: string): Endpoint {
  const endpoint = parseEndpoint(text);
  if (endpoint === null) throw new Error(`no endpoint: ${text}`);
  return endpoint;
}

export class FakeDiscovery implements Discovery {
  readonly mechanism: DiscoveryMechanism;
  readonly port = 50_000;
  readonly publicPort = 51_820;
  readonly families = [4, 6] as const;
  readonly dropped = 0;
  readonly sent: { readonly to: string; readonly bytes: Uint8Array }[] = [];
  readonly accepted = new Map<string, Deliver>();
  readonly sides: number[] = [];

  constructor(mechanism: DiscoveryMechanism = "nft") {
    this.mechanism = mechanism;
  }

  send(bytes: Uint8Array, to: Endpoint): boolean {
    this.sent.push({ to: formatEndpoint(to), bytes });
    return true;
  }

  sendMany(packets: readonly Uint8Array[], to: Endpoint): number {
    for (const packet of packets) this.send(packet, to);
    return packets.length;
  }

  accept(from: Endpoint, deliver: Deliver | null): void {
    if (deliver === null) this.accepted.delete(formatEndpoint(from));
    else this.accepted.set(formatEndpoint(from), deliver);
  }

  openSide(): Promise<SidePort> {
    const port = 60_000 + this.sides.length;
    this.sides.push(port);
    const send = (bytes: Uint8Array, to: Endpoint): boolean => {
      this.sent.push({ to: `${formatEndpoint(to)} by ${port}`, bytes });
      return true;
    };
    return Promise.resolve({
      port,
      send,
      sendMany: (packets, to) => packets.filter((packet) => send(packet, to)).length,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  }

  repair(): Promise<boolean> {
    return Promise.resolve(false);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

export class FakeRedirect implements Redirect {
  policy: RedirectPolicy = { wireGuardPort: 0, redirects: [], dropFrom: [] };

  apply(policy: RedirectPolicy): Promise<void> {
    this.policy = policy;
    return Promise.resolve();
  }

  reset(): Promise<void> {
    return Promise.resolve();
  }

  get text(): string {
    const led = this.policy.redirects.map(({ from, to }) => `${formatEndpoint(from)} > ${formatEndpoint(to)}`);
    const dropped = this.policy.dropFrom.map((from) => `${formatEndpoint(from)} dropped`);
    const beside = (this.policy.sides ?? []).map(
      ({ port, peer, leaves }) => `${formatEndpoint(peer)} ${leaves ? "by" : "in at"} ${port}`,
    );
    return [...led, ...beside, ...dropped].join(", ");
  }
}

export class FakeBridge implements Bridge {
  readonly endpoint: Endpoint = { address: "127.0.0.1" as IpAddress, port: 7 };
  readonly dropped = 0;
  readonly injected: Uint8Array[] = [];
  detour: ((packets: readonly Uint8Array[]) => number) | null = null;

  setSession(): void {}

  inject(packets: readonly Uint8Array[]): void {
    this.injected.push(...packets);
  }

  divert(send: ((packets: readonly Uint8Array[]) => number) | null): void {
    this.detour = send;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
