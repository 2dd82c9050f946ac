// Asking the router over UDP: one socket, answers from the router's own address only, each question with its own schedule.
import { parseIp, type Endpoint, type IpAddress } from "../../base/ip.ts";
import type { Service } from "../../base/service.ts";
import { markOption, setSocketOption } from "../socket-option.ts";
import { fdOf } from "../udp-options.ts";

export interface Question<T> {
  readonly bytes: Uint8Array;
  readonly to: readonly Endpoint[];
  /** What the answer says; null for a datagram that does not answer. Must not throw. */
  readonly read: (bytes: Uint8Array, fromPort: number) => T | null;
  /** When the question is sent, in milliseconds from now, and at last when it is given up. */
  readonly scheduleMs: readonly number[];
}

export interface GatewaySocket extends Service {
  /** Null when nothing answered in time. Throws only `signal.reason`. */
  ask<T>(question: Question<T>, signal: AbortSignal): Promise<T | null>;
}

/** No answer of ours is larger; what is, is not read. */
const MOST_REPLY_BYTES = 2048;

/** Throws what the socket says when `localAddress` is gone. */
export async function openGatewaySocket(options: {
  readonly gateway: IpAddress;
  readonly localAddress: IpAddress;
  readonly mark?: number;
}): Promise<GatewaySocket> {
  const listeners = new Set<(bytes: Uint8Array, fromPort: number) => void>();
  const socket = await Bun.udpSocket({
    hostname: options.localAddress,
    port: 0,
    binaryType: "uint8array",
    socket: {
      data(_socket, bytes, port, from) {
        if (parseIp(from) !== options.gateway || bytes.length > MOST_REPLY_BYTES) return;
        for (const listener of [...listeners]) listener(bytes, port);
      },
      error() {
        // A router without the service says so by ICMP; silence means the same. Without a handler it would end the process.
      },
    },
  });
  if (options.mark !== undefined) await setSocketOption(fdOf(socket) ?? -1, markOption(options.mark));
  try {
    socket.setMulticastInterface(options.localAddress);
  } catch {
    // then multicast goes where the routes say, and the router is still asked by its own address
  }
  const send = (bytes: Uint8Array, to: Endpoint): void => {
    try {
      socket.send(bytes, to.port, to.address);
    } catch {
      // no route, which is as good as no answer
    }
  };
  return {
    async ask<T>({ bytes, to, read, scheduleMs }: Question<T>, signal: AbortSignal): Promise<T | null> {
      signal.throwIfAborted();
      const { promise, resolve, reject } = Promise.withResolvers<T | null>();
      const listener = (reply: Uint8Array, fromPort: number): void => {
        const answer = read(reply, fromPort);
        if (answer !== null) resolve(answer);
      };
      const onAbort = (): void => reject(signal.reason);
      const endMs = scheduleMs.at(-1) ?? 0;
      const timers = scheduleMs.slice(0, -1).map((atMs) =>
        setTimeout(() => {
          for (const one of to) send(bytes, one);
        }, atMs),
      );
      timers.push(setTimeout(() => resolve(null), endMs));
      listeners.add(listener);
      signal.addEventListener("abort", onAbort, { once: true });
      try {
        return await promise;
      } finally {
        listeners.delete(listener);
        signal.removeEventListener("abort", onAbort);
        for (const timer of timers) clearTimeout(timer);
      }
    },
    [Symbol.asyncDispose]() {
      if (!socket.closed) socket.close();
      return Promise.resolve();
    },
  };
}
