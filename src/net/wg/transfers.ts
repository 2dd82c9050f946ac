// What went to and came from each peer, by WireGuard's own count: from wireguard-go's control socket, or from the tool `wg`.
//
// The socket's language (wireguard.com/xplatform): `get=1` and an empty line; the answer is lines of `key=value`, a peer begins with
// `public_key=` in hexadecimal, and an empty line ends it.
import { toBase64 } from "../../base/bytes.ts";
import { parseWireGuardKey, type WireGuardKey } from "../../proto/keys.ts";
import type { PeerTransfer } from "./device.ts";

export type Transfers = ReadonlyMap<WireGuardKey, PeerTransfer>;

/** What is no peer, or no number, is passed over. */
export function parseUapiTransfers(text: string): Transfers {
  const found = new Map<WireGuardKey, PeerTransfer>();
  let key: WireGuardKey | null = null;
  for (const line of text.split("\n")) {
    const [name, value = ""] = line.split("=");
    if (name === "public_key") {
      key = parseWireGuardKey(toBase64(Buffer.from(value, "hex")));
      if (key !== null) found.set(key, { rxBytes: 0, txBytes: 0 });
    }
    const known = key === null ? undefined : found.get(key);
    if (key === null || known === undefined || !/^\d+$/.test(value)) continue;
    if (name === "rx_bytes") found.set(key, { ...known, rxBytes: Number(value) });
    if (name === "tx_bytes") found.set(key, { ...known, txBytes: Number(value) });
  }
  return found;
}

/** `wg show IF transfer`: public key, received and sent, separated by tabs. */
export function parseWgTransfers(text: string): Transfers {
  const found = new Map<WireGuardKey, PeerTransfer>();
  for (const line of text.split("\n")) {
    const [publicKey = "", rx = "", tx = ""] = line.split("\t");
    const key = parseWireGuardKey(publicKey);
    if (key !== null && /^\d+$/.test(rx) && /^\d+$/.test(tx))
      found.set(key, { rxBytes: Number(rx), txBytes: Number(tx) });
  }
  return found;
}

/** Everything that a wireguard-go says to one question. Throws when nobody listens, or it takes longer than `timeoutMs`. */
export async function askUapi(path: string, timeoutMs: number): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const parts: Uint8Array[] = [];
  const socket = await Bun.connect({
    unix: path,
    socket: {
      open: (opened) => void opened.write("get=1\n\n"),
      data(from, bytes) {
        parts.push(new Uint8Array(bytes)); // the socket uses its buffer again
        const end = bytes.length >= 2 && bytes.at(-1) === 10 && bytes.at(-2) === 10;
        if (end) {
          resolve(Buffer.concat(parts).toString());
          from.end();
        }
      },
      close: () => resolve(Buffer.concat(parts).toString()),
      error: (_from, error) => reject(error),
    },
  });
  const timer = setTimeout(() => reject(new Error("wireguard-go does not answer")), timeoutMs);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    socket.end();
  }
}
