// The keys of a session: one for each direction between its ends, and between each end and the server's UDP relay.
import { randomBytes } from "node:crypto";
import { toBase64Url } from "../base/bytes.ts";
import type { Probe } from "../proto/path.ts";
import type { RelayKeys } from "./udp-relay/messages.ts";

export interface SessionKeys {
  /** In the order of the session's ends: what each of them sends to the other with. */
  readonly ends: readonly [Uint8Array, Uint8Array];
  readonly relay: RelayKeys;
}

const KEY_BYTES = 32;

export function newSessionKeys(): SessionKeys {
  const pair = (): readonly [Uint8Array, Uint8Array] => [randomBytes(KEY_BYTES), randomBytes(KEY_BYTES)];
  return { ends: pair(), relay: { toEnd: pair(), fromEnd: pair() } };
}

/** What an end is told: its own half, and where the relay is, if there is one. */
export function probeFor(end: 0 | 1, keys: SessionKeys, relayEndpoints: readonly string[]): Probe {
  const other = end === 0 ? 1 : 0;
  return {
    sendKey: toBase64Url(keys.ends[end]),
    receiveKey: toBase64Url(keys.ends[other]),
    relay:
      relayEndpoints.length === 0
        ? null
        : {
            endpoints: [...relayEndpoints],
            sendKey: toBase64Url(keys.relay.fromEnd[end]),
            receiveKey: toBase64Url(keys.relay.toEnd[end]),
          },
  };
}
