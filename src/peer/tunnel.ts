// The tunnel of a machine: the WireGuard device and, for each peer in session, a bridge to the relay and the search for a better path.
import { SerialQueue } from "../base/async.ts";
import type { Logger } from "../base/log.ts";
import { type Cidr, type Endpoint, formatEndpoint, type IpAddress } from "../base/ip.ts";
import { short } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { Look } from "../net/watch-differences.ts";
import type { PeerStats, WireGuardDevice } from "../net/wg/device.ts";
import type { Session } from "../proto/control.ts";
import type { MachineId, WireGuardKey, WireGuardSecret } from "../proto/keys.ts";
import { type Bridge, openBridge } from "./bridge.ts";
import type { MendWhat } from "./mender.ts";
import type { Paths } from "./paths.ts";
import type { PathSession } from "./peer-path.ts";
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

/** For a machine that stays on the relay: makes a restarted end speak first. */
const KEEPALIVE_S = 25;
/** WireGuard over the WebSocket costs the stream nothing, so the device keeps the size that suits a direct path too. */
export const TUNNEL_MTU = 1420;

/** A session's keys are refused this long after its handshake (WireGuard's paper, section 6.1: Reject-After-Time). */
const SESSION_LIFE_MS = 180_000;

interface Live {
  peer: TunnelPeer;
  /** Where an earlier process left it, if it lives there. */
  living: Endpoint | null;
  readonly bridge: Bridge;
  /** What the device has of this peer; null when it has nothing, or nobody knows. */
  onDevice: readonly Cidr[] | null;
  keepaliveS: number;
}

export interface Tunnel extends Service {
  /** Null for a machine that stays on the relay. */
  readonly paths: Paths | null;
  /** Adds, changes and removes peers until they are as wanted, on a device made anew where it is gone; calls wait for each other. */
  sync(peers: readonly TunnelPeer[], signal: AbortSignal): Promise<void>;
  /**
   * Puts back what somebody else changed: device, addresses, routes to it, peers, and the rules of the paths. Resolves with what
   * differed, as sentences. `rules`: looks at the rules alone.
   */
  mend(what: MendWhat, signal: AbortSignal): Promise<readonly string[]>;
  /** At the device's mark, port, key and peers: nothing tells when somebody changed them, or we did. A tenth of a millisecond. */
  lookAtDevice(signal: AbortSignal): Promise<Look>;
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
  const canAdopt = paths?.canAdopt === true;
  const queue = new SerialQueue();
  const live = new Map<MachineId, Live>();
  let pruned = false;
  /** The device's settings when everything about it was right; null while nobody knows. */
  let right: string | null = null;
  /** Where the peers of a device that was taken over are, by paths that need no process of ours. */
  const living = new Map<WireGuardKey, Endpoint>();

  async function set(peer: TunnelPeer, applySignal: AbortSignal): Promise<void> {
    const before = live.get(peer.id);
    if (before !== undefined && before.peer.wireGuard !== peer.wireGuard) await remove(peer.id, applySignal);
    const entry = live.get(peer.id) ?? (await enter(peer));
    entry.peer = peer;
    entry.bridge.setSession(peer.session?.id ?? null, { yields: peer.session?.initiator === false });
    const isSet = entry.onDevice !== null && String(entry.onDevice) === String(peer.allowedIps);
    const keepaliveS = paths?.keepaliveS ?? KEEPALIVE_S;
    if (isSet && entry.keepaliveS === keepaliveS) return;
    const { wireGuard: publicKey, allowedIps } = peer;
    const endpoint = entry.living === null && !isSet ? entry.bridge.endpoint : null; // null leaves it
    const at = formatEndpoint(entry.living ?? entry.bridge.endpoint);
    deps.log.debug({ peer: short(publicKey), endpoint: at, adopted: entry.living !== null }, "setting a peer");
    if (!isSet) entry.onDevice = null;
    await deps.device.setPeer({ publicKey, endpoint, allowedIps, keepaliveS }, applySignal);
    entry.onDevice = allowedIps;
    entry.keepaliveS = keepaliveS;
  }

  async function enter(peer: TunnelPeer): Promise<Live> {
    const bridge = await openBridge({
      wireGuardPort: config.listenPort,
      relay: deps.relay,
      onRelayed: () => paths?.relayed(peer.id),
    });
    const entry: Live = { peer, bridge, onDevice: null, keepaliveS: 0, living: living.get(peer.wireGuard) ?? null };
    living.delete(peer.wireGuard);
    live.set(peer.id, entry);
    return entry;
  }

  /** One that cannot be set keeps no other from it. Throws the first failure, after all were tried. */
  async function setAll(peers: readonly TunnelPeer[], applySignal: AbortSignal): Promise<void> {
    const failures: unknown[] = [];
    for (const peer of peers) {
      try {
        await set(peer, applySignal);
      } catch (thrown) {
        applySignal.throwIfAborted();
        failures.push(thrown);
      }
    }
    paths?.sync([...live.values()].flatMap(pathSession));
    if (failures.length > 0) throw failures[0];
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
    for (const { publicKey, endpoint, lastHandshakeMs } of await deps.device.stats(applySignal)) {
      if (!keys.has(publicKey)) await deps.device.removePeer(publicKey, applySignal);
      else if (canAdopt && endpoint !== null && !isLoopback(endpoint) && isSession(lastHandshakeMs))
        living.set(publicKey, endpoint);
    }
    pruned = true;
  }

  /** Somebody killed wireguard-go or deleted the interface: the sessions are lost, the peers are not. */
  async function revive(applySignal: AbortSignal): Promise<void> {
    if ((await deps.device.counters()) !== null) return;
    deps.log.warn({}, "the WireGuard device is gone; making it anew");
    living.clear();
    for (const entry of live.values()) {
      entry.living = null;
      entry.onDevice = null; // each is set again, now or at the next sync
    }
    await deps.device.apply({ ...config, mtu: TUNNEL_MTU, peers: "as-they-are" }, applySignal);
  }

  async function mendDevice(mendSignal: AbortSignal): Promise<readonly string[]> {
    const wanted = { ...config, mtu: TUNNEL_MTU, peers: "as-they-are" as const };
    // Read before all else: a change that comes in between is seen below, or with the next look.
    const settings = await deps.device.settings(mendSignal);
    const differences = [...(await deps.device.verify(wanted, mendSignal))];
    if (differences.length > 0) {
      deps.log.warn({ differences }, "the WireGuard device was changed by others; putting it back");
      await revive(mendSignal);
      await deps.device.apply(wanted, mendSignal);
    }
    const there = await deps.device.prefixes(mendSignal);
    for (const entry of live.values()) {
      const now = there.get(entry.peer.wireGuard);
      if (now === undefined) {
        differences.push(`The peer "${entry.peer.name}" is missing.`);
        entry.living = null;
        entry.onDevice = null;
        await set(entry.peer, mendSignal);
      } else if (entry.onDevice !== null && now.toSorted().join() !== entry.onDevice.toSorted().join()) {
        differences.push(`The peer "${entry.peer.name}" has other prefixes.`);
        const { onDevice: allowedIps, keepaliveS } = entry;
        // Where it is stays as it is.
        const publicKey = entry.peer.wireGuard;
        await deps.device.setPeer({ publicKey, endpoint: null, allowedIps, keepaliveS }, mendSignal);
      }
    }
    right = differences.length === 0 ? settings : null;
    return differences;
  }

  return {
    paths,
    mend: (what, mendSignal) =>
      queue.run(async () => {
        const ofDevice = what === "all" ? await mendDevice(mendSignal) : [];
        if (ofDevice.length > 0) await mendDevice(mendSignal); // whether it is right now
        return [...ofDevice, ...((await paths?.mend(mendSignal)) ?? [])];
      }),
    sync: (peers, applySignal) =>
      queue.run(async () => {
        await revive(applySignal);
        if (!pruned) await prune(peers, applySignal);
        const wanted = new Set(peers.map((peer) => peer.id));
        for (const id of [...live.keys()]) if (!wanted.has(id)) await remove(id, applySignal);
        await setAll(peers, applySignal);
      }),
    async lookAtDevice(lookSignal) {
      const settings = await deps.device.settings(lookSignal);
      // A device that is gone is a link that is gone: that is told.
      if (settings === null || settings === right) return "right";
      return right === null ? "wrong" : "changed";
    },
    stats: (statsSignal) => deps.device.stats(statsSignal),
    peers: () => [...live.values()].map((entry) => entry.peer),
    async [Symbol.asyncDispose]() {
      await queue.idle();
      try {
        await paths?.[Symbol.asyncDispose]();
      } finally {
        for (const { bridge } of live.values()) await bridge[Symbol.asyncDispose]();
        live.clear();
      }
    },
  };
}

function pathSession({ peer, bridge, onDevice, living }: Live): PathSession[] {
  if (onDevice === null) return [];
  const { id, name, wireGuard, allowedIps, session } = peer;
  return [{ peer: id, peerName: name, wireGuard, allowedIps, session, bridge, living }];
}

function isSession(lastHandshakeMs: number | null): boolean {
  return lastHandshakeMs !== null && Date.now() - lastHandshakeMs < SESSION_LIFE_MS;
}

function isLoopback({ address }: Endpoint): boolean {
  return address.startsWith("127.") || address === "::1";
}
