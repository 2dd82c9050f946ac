// The control stream of a machine: connects, takes the map and its deltas, asks for sessions, and redials for ever.
import { HiggsError, errorText } from "../base/errors.ts";
import { sleep, Stopped } from "../base/async.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { Ws } from "../net/ws.ts";
import { API_BASE } from "../proto/api.ts";
import {
  CLOSE,
  type MachineMessage,
  type ServerMessage,
  serverMessageSchema,
  type Session,
  type Welcome,
} from "../proto/control.ts";
import type { MachineId } from "../proto/keys.ts";
import { redialMs } from "./reconnect.ts";
import type { ServerLink, ServerSession } from "./server-link.ts";

export class ControlError extends HiggsError {
  override readonly name = "ControlError";
}

export interface ControlEvents {
  onWelcome(welcome: Welcome, session: ServerSession): void;
  onMessage(message: Exclude<ServerMessage, { type: "welcome" | "connected" | "refused" }>): void;
  /** The stream is down, or could not be opened; it is dialled again. */
  onDown(error: HiggsError): void;
}

export interface ControlStream extends Service {
  readonly online: boolean;
  /** False when the stream is down: what matters is sent again after the next welcome. */
  send(message: MachineMessage): boolean;
  /** Asks for a session. Throws ControlError with the server's code, or `offline`. */
  connect(peer: MachineId): Promise<Session>;
}

const OPEN_TIMEOUT_MS = 8_000;
const PING_EVERY_MS = 10_000;
const CONNECT_TIMEOUT_MS = 8_000;

type Waiter = { readonly resolve: (session: Session) => void; readonly reject: (error: Error) => void };

export function controlStream(
  deps: { readonly link: ServerLink; readonly log: Logger },
  events: ControlEvents,
): ControlStream {
  const controller = new AbortController();
  const waiters = new Map<number, Waiter>();
  let ws: Ws | null = null;
  let welcomed = false;
  let nextRef = 1;
  let malformed = 0;

  function failWaiters(error: Error): void {
    for (const waiter of waiters.values()) waiter.reject(error);
    waiters.clear();
  }

  function take(text: string, session: ServerSession): void {
    let message: ServerMessage;
    try {
      message = serverMessageSchema.parse(JSON.parse(text));
    } catch (thrown) {
      malformed++;
      deps.log.warn({ malformed, reason: errorText(thrown).slice(0, 200) }, "control message dropped");
      return;
    }
    if (message.type === "welcome") {
      welcomed = true;
      events.onWelcome(message, session);
      return;
    }
    if (message.type === "connected" || message.type === "refused") {
      const waiter = waiters.get(message.ref);
      waiters.delete(message.ref);
      if (message.type === "connected") waiter?.resolve(message.session);
      else waiter?.reject(new ControlError(message.detail, { code: message.code }));
      return;
    }
    if (welcomed) events.onMessage(message);
  }

  /** One connection from dialling to its end; resolves with why it ended. */
  async function once(): Promise<HiggsError> {
    const session = await deps.link.session(controller.signal);
    const ended = Promise.withResolvers<HiggsError>();
    try {
      ws = await session.door.openWs(
        `${API_BASE}/control`,
        {
          token: session.token,
          openTimeoutMs: OPEN_TIMEOUT_MS,
          pingEveryMs: PING_EVERY_MS,
          onText: (text) => take(text, session),
          onClose: ({ code, reason }) => ended.resolve(closeError(code, reason)),
        },
        controller.signal,
      );
    } catch (thrown) {
      deps.link.invalidate(session);
      throw thrown;
    }
    const onAbort = (): void => ended.reject(controller.signal.reason);
    controller.signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await ended.promise;
    } finally {
      controller.signal.removeEventListener("abort", onAbort);
      deps.link.invalidate(session);
      ws?.close();
      ws = null;
      welcomed = false;
      failWaiters(new ControlError("Cannot ask for a session: the server is not reachable.", { code: "offline" }));
    }
  }

  async function loop(): Promise<void> {
    let attempt = 0;
    let lostAt = performance.now();
    while (!controller.signal.aborted) {
      const started = performance.now();
      try {
        const error = await once();
        if (performance.now() - started > 5_000) attempt = 0;
        lostAt = attempt === 0 ? performance.now() : lostAt;
        events.onDown(error);
      } catch (thrown) {
        if (controller.signal.aborted) return;
        events.onDown(asHiggsError(thrown));
      }
      await sleep(redialMs(attempt++, performance.now() - lostAt), controller.signal).catch(() => undefined); // the loop ends on abort
    }
  }

  const running = loop();
  return {
    get online() {
      return ws !== null && welcomed;
    },
    send(message) {
      if (ws === null || !welcomed) return false;
      ws.send(JSON.stringify(message));
      return true;
    },
    connect(peer) {
      const ref = nextRef++;
      const { promise, resolve, reject } = Promise.withResolvers<Session>();
      if (!this.send({ type: "connect", ref, peer, kind: "wireguard" })) {
        return Promise.reject(
          new ControlError("Cannot ask for a session: the server is not reachable.", { code: "offline" }),
        );
      }
      const timer = setTimeout(() => {
        waiters.delete(ref);
        reject(new ControlError("Cannot ask for a session: the server did not answer in time.", { code: "timeout" }));
      }, CONNECT_TIMEOUT_MS);
      waiters.set(ref, { resolve, reject });
      return promise.finally(() => clearTimeout(timer));
    },
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      ws?.close();
      await running;
    },
  };
}

function closeError(code: number, reason: string): HiggsError {
  switch (code) {
    case CLOSE.revoked:
      return new ControlError("Cannot stay connected: this machine was removed from the network.", {
        code: "machine-revoked",
        remedy: "Join again with a new invite.",
      });
    case CLOSE.replaced:
      return new ControlError("Cannot stay connected: another process uses this machine's keys.", {
        code: "replaced",
        remedy: "Two machines must not share a state folder; join the copy anew.",
      });
    default:
      return new ControlError(`Cannot hold the connection to the server: it ended (${reason || code}).`, {
        code: "server-lost",
      });
  }
}

function asHiggsError(thrown: unknown): HiggsError {
  if (thrown instanceof HiggsError) return thrown;
  return new ControlError(`Cannot reach the server: ${errorText(thrown)}.`, { code: "server-lost", cause: thrown });
}
