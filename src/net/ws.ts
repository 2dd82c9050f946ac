// A WebSocket to a server: pinned TLS, a deadline for opening, and pings that notice a dead connection.
import { HiggsError } from "../base/errors.ts";
import type { PinnedTls } from "./tls.ts";

export class WsError extends HiggsError {
  override readonly name = "WsError";
}

export interface WsOptions {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly tls: PinnedTls;
  /** An HTTP proxy's URL; TLS is with the server all the same. May hold a password. */
  readonly proxyUrl?: string;
  readonly openTimeoutMs: number;
  /** A ping is sent after this long; when nothing at all arrived for twice as long, the connection is dead. */
  readonly pingEveryMs: number;
  readonly onText?: (text: string) => void;
  /** The bytes are valid until the handler returns. */
  readonly onBinary?: (bytes: Uint8Array) => void;
  readonly onClose: (close: { readonly code: number; readonly reason: string }) => void;
}

export interface Ws {
  /** Bytes that the kernel has not taken yet. */
  readonly bufferedBytes: number;
  send(data: string | Uint8Array): void;
  /** Asks the other end now. When nothing at all arrives within `withinMs`, the connection is dead: `onClose`. */
  probe(withinMs: number): void;
  /** Closes at once; `onClose` is not called for it. */
  close(): void;
}

/** Code of `onClose` when pings went unanswered. RFC 6455 keeps 1006 for a connection that closed without a close frame. */
const DEAD = 1006;

/** Resolves once the connection is open. Throws WsError `ws-refused`, or the signal's reason. */
export async function openWs(options: WsOptions, signal: AbortSignal): Promise<Ws> {
  signal.throwIfAborted();
  const socket = new WebSocket(options.url, {
    headers: options.headers,
    tls: options.tls,
    perMessageDeflate: false,
    ...(options.proxyUrl === undefined ? {} : { proxy: options.proxyUrl }),
  });
  socket.binaryType = "nodebuffer";
  let heard = performance.now();
  let over = false;
  let heartbeat: ReturnType<typeof setInterval> | undefined;
  let probing: ReturnType<typeof setTimeout> | undefined;
  const beat = (): void => {
    if (performance.now() - heard > 2 * options.pingEveryMs) end(DEAD, "no answer to pings", true);
    else if (socket.readyState === WebSocket.OPEN) socket.ping();
  };

  function end(code: number, reason: string, tell: boolean): void {
    if (over) return;
    over = true;
    clearInterval(heartbeat);
    clearTimeout(probing);
    socket.terminate();
    if (tell) options.onClose({ code, reason });
  }

  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => fail(refused(options.url, "it did not answer in time")), options.openTimeoutMs);
    const onAbort = (): void => fail(signal.reason as Error);
    const settle = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    };
    const fail = (error: Error): void => {
      settle();
      end(DEAD, "", false);
      reject(error);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    socket.onopen = () => {
      heard = performance.now();
      heartbeat = setInterval(beat, options.pingEveryMs);
      settle();
      resolve();
    };
    socket.onerror = (event) => {
      const text = "message" in event ? String(event.message) : "it failed";
      fail(refused(options.url, text));
    };
    socket.onclose = (event) => {
      fail(refused(options.url, event.reason || `it closed with code ${event.code}`));
    };
    socket.addEventListener("pong", () => {
      heard = performance.now();
    });
    socket.addEventListener("ping", () => {
      heard = performance.now();
    });
    socket.onmessage = (event: MessageEvent<string | Uint8Array>) => {
      heard = performance.now();
      if (over) return;
      if (typeof event.data === "string") options.onText?.(event.data);
      else options.onBinary?.(event.data);
    };
  });
  socket.onerror = () => undefined; // a close event always follows
  socket.onclose = (event) => end(event.code, event.reason, true);
  return {
    get bufferedBytes() {
      return socket.bufferedAmount;
    },
    send(data) {
      if (!over && socket.readyState === WebSocket.OPEN) socket.send(data);
    },
    probe(withinMs) {
      if (over || probing !== undefined || socket.readyState !== WebSocket.OPEN) return;
      const askedAt = performance.now();
      socket.ping();
      probing = setTimeout(() => {
        probing = undefined;
        if (heard < askedAt) end(DEAD, "no answer to a ping", true);
      }, withinMs);
    },
    close() {
      if (over) return;
      socket.close(1000);
      end(1000, "", false);
    },
  };
}

function refused(url: string, why: string): WsError {
  return new WsError(`Cannot open ${new URL(url).pathname} at the server: ${why}.`, { code: "ws-refused" });
}
