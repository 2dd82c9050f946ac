// The tunnel of a machine: the WireGuard device and, for each peer in session, a bridge to the relay and the search for a better path.
import { SerialQueue } from "../base/async.ts";
import type { Logger } from "../base/log.ts";
import { type Cidr, formatEndpoint, type IpAddress } from "../base/ip.ts";
import { short } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { PeerStats, WireGuardDevice } from "../net/wg/device.ts";
import type { Session } from "../proto/control.ts";
import type { MachineId, WireGuardKey, WireGuardSecret } from "../proto/keys.ts";
import { type Bridge, openBridge } from "./bridge.ts";
import type { Paths, PathSession } from "./paths.ts";
import type { RelayLink } from "./relay-link.ts";

export interface TunnelPeer {
  readonly id: MachineId;
  /** For the log. */
  readonly name: string;
  readonly wireGuard: WireGuardKey;
  readonly allowedIps: readonly Cidr[];
  /** The session that the server granted, or null while there is none: the peer stays, its packets wait in vain. */
  readonly session: Session | null;
}

export interface TunnelConfig {
  readonly privateKey: WireGuardSecret;
  readonly listenPort: number;
  readonly addresses: readonly IpAddress[];
  /** Led to the device by the main table: the network's ranges at a node; a client has rules of its own for that. */
  readonly prefixes?: readonly Cidr[];
}

/** Keeps home routers' and this relay's idea of the session alive, and makes a restarted end speak first. */
const KEEPALIVE_S = 25;
/** WireGuard over the WebSocket costs the stream nothing, so the device keeps the size that suits a direct path too. */
export const TUNNEL_MTU = 1420;

interface Live {
  readonly peer: TunnelPeer;
  readonly bridge: Bridge;
}

export interface Tunnel extends Service {
  /** Null for a machine that stays on the relay. */
  readonly paths: Paths | null;
  /** Adds, changes and removes peers until they are as wanted, on a device made anew where it is gone; calls wait for each other. */
  sync(peers: readonly TunnelPeer[], signal: AbortSignal): Promise<void>;
  stats(signal: AbortSignal): Promise<readonly PeerStats[]>;
  peers(): readonly TunnelPeer[];
}

/**
 * Brings the device up, or takes over a living one with its peers as they are. Disposing closes the bridges and leaves the device:
 * taking it away is a decision of its own.
 */
export async function openTunnel(
  deps: {
    readonly device: WireGuardDevice;
    readonly relay: RelayLink;
    /** Opened once the device is up, since both share its port. */
    readonly openPaths?: ((wireGuardPort: number, signal: AbortSignal) => Promise<Paths>) | null;
    readonly log: Logger;
  },
  config: TunnelConfig,
  signal: AbortSignal,
): Promise<Tunnel> {
  await deps.device.apply({ ...config, mtu: TUNNEL_MTU, peers: "as-they-are" }, signal);
  const paths = (await deps.openPaths?.(config.listenPort, signal)) ?? null;
  const queue = new SerialQueue();
  const live = new Map<MachineId, Live>();
  let pruned = false;

  async function set(peer: TunnelPeer, applySignal: AbortSignal): Promise<void> {
    const before = live.get(peer.id);
    if (before !== undefined && before.peer.wireGuard !== peer.wireGuard) await remove(peer.id, applySignal);
    const bridge =
      live.get(peer.id)?.bridge ??
      (await openBridge({
        wireGuardPort: config.listenPort,
        relay: deps.relay,
        onRelayed: () => paths?.relayed(peer.id),
      }));
    bridge.setSession(peer.session?.id ?? null);
    const known = live.get(peer.id);
    live.set(peer.id, { peer, bridge });
    if (known !== undefined && String(known.peer.allowedIps) === String(peer.allowedIps)) return;
    deps.log.debug({ peer: short(peer.wireGuard), endpoint: formatEndpoint(bridge.endpoint) }, "peer set");
    await setOnDevice(peer, bridge, applySignal);
  }

  function setOnDevice(peer: TunnelPeer, bridge: Bridge, applySignal: AbortSignal): Promise<void> {
    const { wireGuard: publicKey, allowedIps } = peer;
    return deps.device.setPeer(
      { publicKey, endpoint: bridge.endpoint, allowedIps, keepaliveS: KEEPALIVE_S },
      applySignal,
    );
  }

  async function remove(id: MachineId, applySignal: AbortSignal): Promise<void> {
    const gone = live.get(id);
    if (gone === undefined) return;
    await deps.device.removePeer(gone.peer.wireGuard, applySignal);
    live.delete(id);
    await gone.bridge[Symbol.asyncDispose]();
  }

  /** Peers that an earlier process left on the device and that are wanted no more. */
  async function prune(wanted: readonly TunnelPeer[], applySignal: AbortSignal): Promise<void> {
    const keys = new Set(wanted.map((peer) => peer.wireGuard));
    for (const { publicKey } of await deps.device.stats(applySignal)) {
      if (!keys.has(publicKey)) await deps.device.removePeer(publicKey, applySignal);
    }
    pruned = true;
  }

  /** Somebody killed wireguard-go or deleted the interface: the sessions are lost, the peers are not. */
  async function revive(applySignal: AbortSignal): Promise<void> {
    if ((await deps.device.counters()) !== null) return;
    deps.log.warn({}, "the WireGuard device is gone; making it anew");
    await deps.device.apply({ ...config, mtu: TUNNEL_MTU, peers: "as-they-are" }, applySignal);
    for (const { peer, bridge } of live.values()) await setOnDevice(peer, bridge, applySignal);
  }

  return {
    paths,
    sync: (peers, applySignal) =>
      queue.run(async () => {
        await revive(applySignal);
        if (!pruned) await prune(peers, applySignal);
        const wanted = new Set(peers.map((peer) => peer.id));
        for (const id of [...live.keys()]) if (!wanted.has(id)) await remove(id, applySignal);
        for (const peer of peers) await set(peer, applySignal);
        paths?.sync([...live.values()].flatMap(pathSession));
      }),
    stats: (statsSignal) => deps.device.stats(statsSignal),
    peers: () => [...live.values()].map((entry) => entry.peer),
    async [Symbol.asyncDispose]() {
      await queue.idle();
      await paths?.[Symbol.asyncDispose]();
      for (const { bridge } of live.values()) await bridge[Symbol.asyncDispose]();
      live.clear();
    },
  };
}

function pathSession({ peer, bridge }: Live): PathSession[] {
  if (peer.session === null) return [];
  const { id, name, wireGuard, allowedIps, session } = peer;
  return [{ peer: id, peerName: name, wireGuard, allowedIps, session, bridge }];
}
