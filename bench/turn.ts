// As much of a TURN client (RFC 8656) as a measurement needs: an allocation without credentials, and one channel to a peer.
import type { Endpoint } from "../src/base/ip.ts";
import { attributeValue } from "../src/proto/stun-attribute.ts";
import { decodeStun, encodeStun, type StunMessage } from "../src/proto/stun.ts";

/** The channel's number, 0x4000 to 0x4fff (section 12); ChannelData is | channel u16 | length u16 | data |. */
export const TURN_CHANNEL = 0x4001;

/** Section 17 and 18. */
const ALLOCATE = 0x003;
const CHANNEL_BIND = 0x009;
const REQUESTED_TRANSPORT = 0x0019;
const CHANNEL_NUMBER = 0x000c;
const XOR_PEER_ADDRESS = 0x0012;
const UDP = 17;
const TIMEOUT_MS = 3_000;

interface TurnEnd {
  readonly batches: { send(bytes: Uint8Array, to: Endpoint): boolean };
  onStun: (bytes: Uint8Array) => void;
}

/** What goes to the server in ChannelData from now on leaves for the peer. The server must ask for no credentials. */
export async function openChannel(end: TurnEnd, server: Endpoint, peer: Endpoint): Promise<void> {
  await ask(ALLOCATE, () => [{ type: "unknown", code: REQUESTED_TRANSPORT, value: new Uint8Array([UDP, 0, 0, 0]) }]);
  await ask(CHANNEL_BIND, (id) => [
    { type: "unknown", code: CHANNEL_NUMBER, value: new Uint8Array([TURN_CHANNEL >> 8, TURN_CHANNEL & 0xff, 0, 0]) },
    {
      type: "unknown",
      code: XOR_PEER_ADDRESS,
      value: attributeValue({ type: "xor-mapped-address", endpoint: peer }, id),
    },
  ]);

  async function ask(method: number, attributes: (id: Uint8Array) => StunMessage["attributes"]): Promise<void> {
    const transactionId = crypto.getRandomValues(new Uint8Array(12));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    end.onStun = (bytes) => {
      const answer = decodeStun(bytes);
      if (answer === null || Buffer.compare(answer.transactionId, transactionId) !== 0) return;
      if (answer.class === "success") resolve();
      else reject(new Error(`the TURN server refuses: ${JSON.stringify(answer.attributes)}`));
    };
    const timer = setTimeout(() => reject(new Error("the TURN server does not answer")), TIMEOUT_MS);
    end.batches.send(
      encodeStun({ method, class: "request", transactionId, attributes: attributes(transactionId) }),
      server,
    );
    await promise.finally(() => clearTimeout(timer));
  }
}
