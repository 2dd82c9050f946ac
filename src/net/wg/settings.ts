// What somebody else may change of a WireGuard device without anything telling of it, as one value to be compared: from its socket or from `wg`.
import type { DeviceDump } from "./wg.ts";

/** What packets change by themselves. */
const MOVING =
  /^(?:last_handshake_time_sec|last_handshake_time_nsec|rx_bytes|tx_bytes|endpoint|errno|protocol_version)=/;

/** From the answer to `get=1` (transfers.ts), where peers and their prefixes come in any order. Empty when it says nothing. */
export function uapiSettings(text: string): string {
  const parts = text
    .split("\n")
    .filter((line) => line !== "" && !MOVING.test(line))
    .join("\n")
    .split(/^(?=public_key=)/m);
  return parts.length === 1 && parts[0] === "" ? "" : digest(parts.map((part) => part.trim().split("\n")));
}

export function dumpSettings({ privateKey, listenPort, mark, peers }: DeviceDump): string {
  const own = [String(privateKey), String(listenPort), String(mark)];
  return digest([
    own,
    ...peers.map((peer) => [peer.publicKey, String(peer.keepaliveS), ...peer.allowedIps.map((prefix) => prefix)]),
  ]);
}

/** The private key is among it, and not to be had from it. */
function digest(parts: readonly (readonly string[])[]): string {
  const text = parts.map((lines) => lines.toSorted().join("\n")).toSorted();
  return new Bun.CryptoHasher("sha256").update(text.join("\n\n")).digest("hex");
}
