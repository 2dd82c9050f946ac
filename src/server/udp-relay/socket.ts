// A UDP socket that is bound by the time the call returns, so that a session can be told its port at once.
import type { udp } from "bun";

/** Bun binds before it returns its promise; null when it could not. */
export function bindNow(
  hostname: string,
  port: number,
  onData: (bytes: Uint8Array, port: number, address: string) => void,
): udp.Socket<"uint8array"> | null {
  try {
    const opening = Bun.udpSocket({
      hostname,
      port,
      binaryType: "uint8array",
      socket: {
        data: (_socket, bytes, fromPort, fromAddress) => onData(bytes, fromPort, fromAddress),
        error: () => undefined, // an ICMP error that one of our datagrams caused; without it the process would end
      },
    });
    const socket: unknown = Bun.peek(opening);
    if (socket === opening || socket instanceof Error) {
      void opening.then((late) => late.close()).catch(() => undefined); // another port is taken instead
      return null;
    }
    return socket as udp.Socket<"uint8array">;
  } catch {
    return null; // in use by another program
  }
}
