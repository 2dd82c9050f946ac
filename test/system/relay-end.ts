// An end of a session at the server's UDP relay, over loopback, as a machine is one: it asks, and answers the challenge.
import { fromBase64Url } from "../../src/base/bytes.ts";
import { parseEndpoint, parseIp } from "../../src/base/ip.ts";
import type { Session } from "../../src/proto/control.ts";
import type { Probe } from "../../src/proto/path.ts";
import { bindingRequest, bindingSuccess, checkIntegrity, decodeStun, encodeStun } from "../../src/proto/stun.ts";
import { until } from "./server-support.ts";

const HERE = parseIp("127.0.0.1") ?? ("" as never);

export interface Heard {
  readonly bytes: Uint8Array;
  readonly port: number;
}

export function probeOf(session: Session): Probe {
  if (session.probe === undefined) throw new Error("The session has no keys.");
  return session.probe;
}

export function relayOf(session: Session): NonNullable<Probe["relay"]> {
  const { relay } = probeOf(session);
  if (relay === null) throw new Error("The session has no relay.");
  return relay;
}

export function keyOf(text: string): Uint8Array {
  return fromBase64Url(text) ?? new Uint8Array(0);
}

export async function loopbackUdp() {
  const heard: Heard[] = [];
  const socket = await Bun.udpSocket({
    hostname: HERE,
    binaryType: "uint8array",
    socket: { data: (_socket, bytes, port) => void heard.push({ bytes, port }), error: () => undefined },
  });
  return {
    socket,
    heard,
    send(bytes: Uint8Array, port: number): boolean {
      try {
        return socket.send(bytes, port, HERE);
      } catch {
        return false; // told of the ICMP error that an earlier one caused: nobody listens there any more
      }
    },
  };
}

/** `port` is the relay's. */
export async function latched(session: Session) {
  const end = await loopbackUdp();
  const { endpoints, sendKey, receiveKey } = relayOf(session);
  const port = parseEndpoint(endpoints[0] ?? "")?.port ?? 0;
  const user = session.id.toString(16).padStart(8, "0");
  const request = bindingRequest(crypto.getRandomValues(new Uint8Array(12)), [{ type: "username", text: user }]);
  end.send(encodeStun(request, { integrityKey: keyOf(sendKey) }), port);
  const challenge = await until(() => end.heard.find((one) => decodeStun(one.bytes)?.class === "request"));
  if (!checkIntegrity(challenge.bytes, keyOf(receiveKey))) throw new Error("The challenge has another key.");
  const id = decodeStun(challenge.bytes)?.transactionId ?? new Uint8Array(12);
  end.send(encodeStun(bindingSuccess(id, { mapped: { address: HERE, port } }), { integrityKey: keyOf(sendKey) }), port);
  return { ...end, port };
}
