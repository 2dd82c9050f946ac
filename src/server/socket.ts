// What the server needs of a WebSocket, and what it hangs on one.

export interface Socket {
  /** Bytes sent; -1 when they wait for the reader; 0 when they were dropped. */
  send(data: string | Uint8Array<ArrayBuffer>): number;
  close(code?: number, reason?: string): void;
  /** At once, with no word to the other side. */
  terminate(): void;
  getBufferedAmount(): number;
  /** RFC 6455 section 5.5.2; the answer comes to `pong`. */
  ping(payload: Uint8Array<ArrayBuffer>): unknown;
}

/** The other end of Bun.serve's WebSocket events, one object a connection. */
export interface SocketEvents {
  open(socket: Socket): void;
  message(data: string | Uint8Array<ArrayBuffer>): void;
  drain(): void;
  close(): void;
  pong?(payload: Uint8Array): void;
}

export type SocketData =
  | { readonly kind: "control"; readonly events: SocketEvents }
  | { readonly kind: "relay"; readonly events: SocketEvents };

/** How long the other side has to answer our close before the connection is cut. */
const CLOSE_GRACE_MS = 500;

/** Ends a connection for good, also one whose other side does not read. */
export function shut(socket: Socket, code: number, reason: string): void {
  socket.close(code, reason);
  setTimeout(() => socket.terminate(), CLOSE_GRACE_MS).unref();
}
