// The language of the tool `wg`: reading what it shows, and the arguments that bring a device from one state to another.
//
// `wg show IF dump`, fields separated by tabs:
//   private key | public key | listen port | mark ("off" or hexadecimal)
// and one line a peer:
//   public key | preshared key | endpoint | allowed prefixes, by commas | latest handshake, Unix seconds | received | sent | keepalive
// with "(none)" for what is missing, "0" for a handshake that never was and "off" for no keepalive.
import { HiggsError } from "../../base/errors.ts";
import { type Cidr, formatEndpoint, parseCidr, parseEndpoint } from "../../base/ip.ts";
import { parseWireGuardKey, type WireGuardKey, type WireGuardSecret } from "../../proto/keys.ts";
import type { PeerStats, WireGuardConfig, WireGuardPeer } from "./device.ts";

export interface DumpedPeer extends PeerStats {
  readonly allowedIps: readonly Cidr[];
  readonly keepaliveS: number;
}

export interface DeviceDump {
  /** Null while none was set. Never logged. */
  readonly privateKey: WireGuardSecret | null;
  readonly listenPort: number;
  readonly mark: number;
  readonly peers: readonly DumpedPeer[];
}

export class DumpUnreadable extends HiggsError {
  override readonly name = "DumpUnreadable";
}

/** Throws DumpUnreadable. */
export function parseDump(text: string): DeviceDump {
  const lines = text.split("\n").filter((line) => line !== "");
  const device = lines[0]?.split("\t") ?? [];
  if (device.length !== 4) throw unreadable(`${device.length} fields in its first line`);
  const secret = field(device, 0);
  return {
    privateKey: secret === "(none)" ? null : (secret as WireGuardSecret),
    listenPort: wholeNumber(field(device, 2)),
    mark: field(device, 3) === "off" ? 0 : wholeNumber(field(device, 3)),
    peers: lines.slice(1).map((line) => parsePeer(line.split("\t"))),
  };
}

function parsePeer(fields: readonly string[]): DumpedPeer {
  if (fields.length !== 8) throw unreadable(`${fields.length} fields in the line of a peer`);
  const publicKey = parseWireGuardKey(field(fields, 0));
  if (publicKey === null) throw unreadable("a peer without a public key");
  const handshakeS = wholeNumber(field(fields, 4));
  return {
    publicKey,
    // An endpoint with a zone (a link-local address) is none that higgs gave.
    endpoint: parseEndpoint(field(fields, 2)),
    allowedIps: parseAllowed(field(fields, 3)),
    lastHandshakeMs: handshakeS === 0 ? null : handshakeS * 1000,
    rxBytes: wholeNumber(field(fields, 5)),
    txBytes: wholeNumber(field(fields, 6)),
    keepaliveS: field(fields, 7) === "off" ? 0 : wholeNumber(field(fields, 7)),
  };
}

function parseAllowed(text: string): readonly Cidr[] {
  if (text === "(none)" || text === "") return [];
  return text.split(",").map((part) => {
    const cidr = parseCidr(part);
    if (cidr === null) throw unreadable(`"${part}" among the allowed prefixes`);
    return cidr;
  });
}

function field(fields: readonly string[], at: number): string {
  return fields[at] ?? "";
}

/** Decimal, or hexadecimal with 0x. */
function wholeNumber(text: string): number {
  if (!/^(?:\d+|0x[0-9a-f]+)$/.test(text)) throw unreadable(`"${text.slice(0, 20)}" where a number belongs`);
  return Number(text);
}

function unreadable(what: string): DumpUnreadable {
  return new DumpUnreadable(`Cannot understand what "wg show" says: ${what}.`, { code: "wireguard-dump-unreadable" });
}

/** What comes after `wg set IF`, in portions that fit a command line; the private key, if it changes, is read from standard input. */
export interface WgChange {
  readonly args: readonly string[];
  readonly stdin: string | null;
}

/** A session's keys are refused this long after its handshake: REJECT_AFTER_TIME, section 6.1 of the WireGuard paper. */
const SESSION_LIFE_MS = 180_000;
/** A hundred peers with two prefixes each are 20 KiB of arguments; Linux takes 128 KiB in one and 2 MiB in all. */
const PEERS_AT_ONCE = 100;

/** Empty when the device is as wanted. Peers that stay as they are do not occur, so nothing of theirs is disturbed. */
export function changesFor(
  now: DeviceDump,
  wanted: Pick<WireGuardConfig, "privateKey" | "listenPort" | "peers"> & {
    readonly mark: number;
    /** What names standard input there; default: Linux' own. */
    readonly keyPath?: string;
  },
  nowMs: number,
): readonly WgChange[] {
  const own: string[] = [];
  // Not /dev/stdin, which a bare /dev of a container does not have.
  if (now.privateKey !== wanted.privateKey) own.push("private-key", wanted.keyPath ?? "/proc/self/fd/0");
  if (now.listenPort !== wanted.listenPort) own.push("listen-port", String(wanted.listenPort));
  if (now.mark !== wanted.mark) own.push("fwmark", `0x${wanted.mark.toString(16)}`);
  const peers = wanted.peers === "as-they-are" ? [] : peerChanges(now, wanted.peers, nowMs);
  const changes: WgChange[] = [];
  if (own.length > 0) changes.push({ args: own, stdin: own[0] === "private-key" ? `${wanted.privateKey}\n` : null });
  for (let at = 0; at < peers.length; at += PEERS_AT_ONCE) {
    changes.push({ args: peers.slice(at, at + PEERS_AT_ONCE).flat(), stdin: null });
  }
  return changes;
}

function peerChanges(now: DeviceDump, wanted: readonly WireGuardPeer[], nowMs: number): readonly (readonly string[])[] {
  const known = new Map(now.peers.map((peer) => [peer.publicKey, peer]));
  const wantedKeys = new Set(wanted.map((peer) => peer.publicKey));
  return [
    ...now.peers.filter((peer) => !wantedKeys.has(peer.publicKey)).map((peer) => peerRemoval(peer.publicKey)),
    ...wanted.map((peer) => peerChange(known.get(peer.publicKey), peer, nowMs)).filter((args) => args.length > 0),
  ];
}

export function peerRemoval(publicKey: WireGuardKey): readonly string[] {
  return ["peer", publicKey, "remove"];
}

/**
 * The arguments for one peer; none when it is as wanted.
 *
 * WireGuard starts a handshake at once when keepalives go from off to on, but not again within five seconds of the last
 * attempt (REKEY_TIMEOUT), and an attempt without an endpoint counts. So a peer that gets a new endpoint and has no
 * living session to lose is removed and added anew, in the same transaction.
 */
export function peerChange(now: DumpedPeer | undefined, wanted: WireGuardPeer, nowMs: number): readonly string[] {
  const endpoint = wanted.endpoint === null ? null : formatEndpoint(wanted.endpoint);
  const isElsewhere =
    endpoint !== null && (now === undefined || now.endpoint === null || formatEndpoint(now.endpoint) !== endpoint);
  if (now === undefined) return peerAddition(wanted);
  const isAlive = now.lastHandshakeMs !== null && nowMs - now.lastHandshakeMs < SESSION_LIFE_MS;
  if (isElsewhere && !isAlive && wanted.keepaliveS > 0)
    return [...peerRemoval(wanted.publicKey), ...peerAddition(wanted)];
  const args: string[] = [];
  if (isElsewhere) args.push("endpoint", endpoint);
  if (now.keepaliveS !== wanted.keepaliveS) args.push("persistent-keepalive", String(wanted.keepaliveS));
  if (!isSameSet(now.allowedIps, wanted.allowedIps)) args.push("allowed-ips", wanted.allowedIps.join(","));
  return args.length === 0 ? [] : ["peer", wanted.publicKey, ...args];
}

function peerAddition(peer: WireGuardPeer): readonly string[] {
  return [
    "peer",
    peer.publicKey,
    ...(peer.endpoint === null ? [] : ["endpoint", formatEndpoint(peer.endpoint)]),
    "persistent-keepalive",
    String(peer.keepaliveS),
    "allowed-ips",
    peer.allowedIps.join(","),
  ];
}

function isSameSet(a: readonly string[], b: readonly string[]): boolean {
  const set = new Set(a);
  return set.size === new Set(b).size && b.every((one) => set.has(one));
}
