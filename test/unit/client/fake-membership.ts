// A membership and a tunnel in memory: the test says what the server tells, and reads what the tunnel was asked for.
import type { HiggsError } from "../../../src/base/errors.ts";
import type { Endpoint, IpAddress } from "../../../src/base/ip.ts";
import type { PeerStats } from "../../../src/net/wg/device.ts";
import type { Membership } from "../../../src/peer/membership.ts";
import type { KnownPeer } from "../../../src/peer/netmap.ts";
import type { Tunnel, TunnelPeer } from "../../../src/peer/tunnel.ts";
import type { MachineMessage, Session } from "../../../src/proto/control.ts";
import type { MachineId, WireGuardKey } from "../../../src/proto/keys.ts";

export class FakeNetwork {
  peers: KnownPeer[] = [];
  readonly sessions = new Map<MachineId, Session>();
  /** Sessions that were asked for; the test answers. */
  readonly asked: { peer: MachineId; grant: () => void; refuse: (error: Error) => void }[] = [];
  readonly closed: string[] = [];
  /** What the server was told. */
  readonly said: MachineMessage[] = [];
  online = true;
  welcomed = true;
  trouble: HiggsError | null = null;
  wanted: readonly TunnelPeer[] = [];
  handshakes = new Map<WireGuardKey, number>();
  onChange: () => void = () => undefined;
  failSync: Error | null = null;
  /** How often the handshakes were asked for. */
  looks = 0;
  isDeviceGone = false;

  get membership(): Membership {
    const network = () => this; // getters have a `this` of their own
    const membership = {
      map: {
        peers: () => this.peers,
        get: (id: MachineId) => this.peers.find((peer) => peer.id === id),
        named: (name: string) => this.peers.find((peer) => (peer.name as string) === name),
        refusals: () => [],
      },
      control: {
        get online() {
          return network().online;
        },
      },
      connect: (peer: MachineId) => this.#ask(peer),
      send: (message: MachineMessage) => {
        this.said.push(message);
        return true;
      },
      relay: {},
      sessions: this.sessions,
      get trouble() {
        return network().trouble;
      },
      get welcomed() {
        return network().welcomed;
      },
      carriers: (): Endpoint[] => [{ address: "203.0.113.10" as IpAddress, port: 443 }],
      [Symbol.asyncDispose]: () => Promise.resolve(void this.closed.push("membership")),
    };
    return membership as unknown as Membership;
  }

  get tunnel(): Tunnel {
    return {
      paths: null,
      mend: () => Promise.resolve([]),
      lookAtDevice: () => Promise.resolve("right"),
      sync: (peers) => {
        if (this.failSync !== null) return Promise.reject(this.failSync);
        this.wanted = peers;
        return Promise.resolve();
      },
      stats: () => {
        this.looks++;
        if (this.isDeviceGone) return Promise.reject(new Error("no such device"));
        return Promise.resolve(
          this.wanted.map(({ wireGuard }): PeerStats => {
            const lastHandshakeMs = this.handshakes.get(wireGuard) ?? null;
            return { publicKey: wireGuard, endpoint: null, lastHandshakeMs, rxBytes: 0, txBytes: 0 };
          }),
        );
      },
      peers: () => this.wanted,
      [Symbol.asyncDispose]: () => Promise.resolve(void this.closed.push("tunnel")),
    };
  }

  /** The server tells, and the client is poked. */
  show(...peers: KnownPeer[]): void {
    this.peers = peers;
    this.onChange();
  }

  async #ask(peer: MachineId): Promise<Session> {
    const { promise, resolve, reject } = Promise.withResolvers<Session>();
    const id = this.asked.length + 1;
    this.asked.push({ peer, grant: () => resolve({ id, peer, kind: "wireguard", initiator: true }), refuse: reject });
    const session = await promise;
    this.sessions.set(peer, session);
    return session;
  }
}
