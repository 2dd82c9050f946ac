// One UDP port in both families: datagrams in, and out without ever being cut into fragments.
import type { udp } from "bun";
import { type Endpoint, type Family, familyOf } from "../../base/ip.ts";
import type { Service } from "../../base/service.ts";
import { markOption, NEVER_FRAGMENT, setSocketOption } from "../socket-option.ts";
import { enlargeReceiveBuffer, fdOf } from "../udp-options.ts";
import { DiscoveryFailed, type SidePort } from "./discovery.ts";

export interface PortSockets extends Service {
  readonly port: number;
  readonly families: readonly Family[];
  /** False when it was not sent. */
  send(bytes: Uint8Array, to: Endpoint): boolean;
  /** How many were sent. */
  sendMany(packets: readonly Uint8Array[], to: Endpoint): number;
}

export interface PortSocketsOptions {
  /** 0 for one that the kernel chooses, free in both families. */
  readonly port: number;
  /** Address and port as the kernel writes them; a link-local address has its zone. */
  readonly onDatagram: (bytes: Uint8Array, address: string, port: number) => void;
  /** A datagram was refused somewhere (ICMP). */
  readonly onError: () => void;
  /** Room for bursts, where more than checks arrives. */
  readonly receiveBufferBytes?: number;
}

type Socket = udp.Socket<"uint8array">;

/** Bun's own number for IPV6_V6ONLY: the two families have a socket each. */
const IPV6_ONLY = 8;
/** The port that IPv4 was given may be taken in IPv6. */
const ATTEMPTS = 8;

/** A kernel without IPv6 has the IPv4 half. Throws DiscoveryFailed `port-busy` or `socket-failed`. */
export async function openPortSockets(options: PortSocketsOptions): Promise<PortSockets> {
  for (let attempt = 1; ; attempt++) {
    const four = await bind(4, options.port, options);
    try {
      const six = await bindIpv6(four.port, options);
      const sockets = new Map<Family, Socket>([[4, four]]);
      if (six !== null) sockets.set(6, six);
      return await portSockets(sockets, options.receiveBufferBytes ?? 0);
    } catch (thrown) {
      four.close();
      if (options.port !== 0 || attempt === ATTEMPTS) throw thrown;
    }
  }
}

/**
 * A side port. `mark`: the role's own, by which its packets go past a full tunnel before a source address is chosen for them.
 * Throws DiscoveryFailed `socket-failed`, also where the mark cannot be set.
 */
export async function openSidePort(
  options: Omit<PortSocketsOptions, "port"> & { readonly mark: number },
): Promise<SidePort> {
  const socket = await bind(4, 0, { ...options, port: 0 });
  if (!(await setSocketOption(fdOf(socket) ?? -1, markOption(options.mark)))) {
    socket.close();
    throw new DiscoveryFailed("Cannot open another UDP port: its packets cannot be marked.", { code: "socket-failed" });
  }
  return await portSockets(new Map([[4, socket]]), options.receiveBufferBytes ?? 0);
}

async function portSockets(sockets: ReadonlyMap<Family, Socket>, receiveBufferBytes: number): Promise<PortSockets> {
  for (const [family, socket] of sockets) {
    await setSocketOption(fdOf(socket) ?? -1, NEVER_FRAGMENT[family]);
    if (receiveBufferBytes > 0) await enlargeReceiveBuffer(socket, receiveBufferBytes);
  }
  let isClosed = false;
  return {
    port: sockets.get(4)?.port ?? 0,
    families: [...sockets.keys()],
    send(bytes, to) {
      try {
        return sockets.get(familyOf(to.address))?.send(bytes, to.port, to.address) ?? false;
      } catch {
        return false; // no route, or larger than the interface takes
      }
    },
    sendMany(packets, to) {
      const socket = sockets.get(familyOf(to.address));
      if (socket === undefined || packets.length === 0) return 0;
      try {
        return socket.sendMany(packets.flatMap((packet) => [packet, to.port, to.address]));
      } catch {
        return 0; // as above
      }
    },
    [Symbol.asyncDispose]() {
      if (!isClosed) for (const socket of sockets.values()) socket.close();
      isClosed = true;
      return Promise.resolve();
    },
  };
}

async function bindIpv6(port: number, options: PortSocketsOptions): Promise<Socket | null> {
  try {
    return await bind(6, port, options);
  } catch (thrown) {
    if (thrown instanceof DiscoveryFailed && thrown.code === "port-busy") throw thrown;
    return null; // this kernel has no IPv6
  }
}

async function bind(family: Family, port: number, options: PortSocketsOptions): Promise<Socket> {
  try {
    return await Bun.udpSocket({
      hostname: family === 4 ? "0.0.0.0" : "::",
      port,
      binaryType: "uint8array",
      ...(family === 6 ? { flags: IPV6_ONLY } : {}),
      socket: {
        data: (_socket, bytes, fromPort, fromAddress) => options.onDatagram(bytes, fromAddress, fromPort),
        // Without it, an ICMP error that one of our datagrams caused would end the process.
        error: () => options.onError(),
      },
    });
  } catch (cause) {
    const isBusy = cause instanceof Error && "code" in cause && cause.code === "EADDRINUSE";
    throw new DiscoveryFailed(
      isBusy ? `Cannot open UDP port ${port}: another program has it.` : "Cannot open a UDP socket for discovery.",
      {
        code: isBusy ? "port-busy" : "socket-failed",
        ...(isBusy ? { remedy: `See who has it: ss -ulnp 'sport = :${port}', or choose another with --port.` } : {}),
        cause,
      },
    );
  }
}
