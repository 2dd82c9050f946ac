// The peers of a WireGuard device that is there, by the tool `wg`: the same on every platform that has it.
import { type Cidr, type Endpoint, formatEndpoint } from "../../base/ip.ts";
import type { WireGuardKey } from "../../proto/keys.ts";
import type { Exec } from "../exec.ts";
import type { PeerStats, WireGuardPeer } from "./device.ts";
import { readDump, runWg } from "./run-wg.ts";
import { peerChange, peerRemoval } from "./wg.ts";

/** As WireGuardDevice has them; `name` is what the machine calls the interface. */
export function wgPeers(exec: Exec, name: () => Promise<string>) {
  return {
    async setPeer(peer: WireGuardPeer, signal: AbortSignal): Promise<void> {
      const device = await name();
      const now = await readDump(exec, device, signal);
      const known = now.peers.find((one) => one.publicKey === peer.publicKey);
      const args = peerChange(known, peer, Date.now());
      if (args.length > 0) await runWg(exec, { name: device, change: { args, stdin: null }, signal });
    },
    async setEndpoint(publicKey: WireGuardKey, endpoint: Endpoint, signal: AbortSignal): Promise<void> {
      const device = await name();
      const now = await readDump(exec, device, signal);
      const known = now.peers.find((one) => one.publicKey === publicKey);
      // "wg set" would make a peer that is not there.
      if (known === undefined) return;
      if (known.endpoint !== null && formatEndpoint(known.endpoint) === formatEndpoint(endpoint)) return;
      const args = ["peer", publicKey, "endpoint", formatEndpoint(endpoint)];
      await runWg(exec, { name: device, change: { args, stdin: null }, signal });
    },
    async removePeer(publicKey: WireGuardKey, signal: AbortSignal): Promise<void> {
      await runWg(exec, { name: await name(), change: { args: peerRemoval(publicKey), stdin: null }, signal });
    },
    async prefixes(signal: AbortSignal): Promise<ReadonlyMap<WireGuardKey, readonly Cidr[]>> {
      const { peers } = await readDump(exec, await name(), signal);
      return new Map(peers.map(({ publicKey, allowedIps }) => [publicKey, allowedIps]));
    },
    async stats(signal: AbortSignal): Promise<readonly PeerStats[]> {
      return (await readDump(exec, await name(), signal)).peers.map(
        ({ publicKey, endpoint, lastHandshakeMs, rxBytes, txBytes }) => {
          return { publicKey, endpoint, lastHandshakeMs, rxBytes, txBytes };
        },
      );
    },
  };
}
