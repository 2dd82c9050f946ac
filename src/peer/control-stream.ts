// The control stream of a machine: connects, takes the map and its deltas, asks for sessions, and redials for ever.
import { HiggsError, errorText } from "../base/errors.ts";
import { Stopped } from "../base/async.ts";
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
import { askedToWaitMs, type Doubt, PROBE_MS, Redialling, redialMs } from "./reconnect.ts";
import type { ServerLink, ServerSession } from "./server-link.ts";

export class ControlError extends HiggsError {
  override readonly name = "ControlError";
}

export interface ControlEvents {
  onWelcome(welcome: Welcome, session: ServerSession): void;
  onMessage(message: Exclude<ServerMessage, { type: "welcome" | "connected" | "refused" }>): void;
  /** The stream is down, or could not be opened; it is dialled again. */
  onDown(error: HiggsError): void;
  /** Something that was sent without waiting for an answer was refused: this machine's record, above all. */
  onRefused(error: HiggsError): void;
}

export interface ControlStream extends Service {
  readonly online: boolean;
  /** False when the stream is down: what matters is sent again after the next welcome. */
  send(message: MachineMessage): boolean;
  /** Asks for a session. Throws ControlError with the server's code, or `offline`. */
  connect(peer: MachineId): Promise<Session>;
  /** Ends this connection and dials again. */
  restart(error: HiggsError): void;
  /** Looks whether the connection lives, or dials anew, as there is reason to. */
  probe(why: Doubt): void;
}

const OPEN_TIMEOUT_MS = 8_000;
const PING_EVERY_MS = 10_000;
const CONNECT_TIMEOUT_MS = 8_000;
/** From the open connection to the whole map. */
const WELCOME_TIMEOUT_MS = 15_000;

type Waiter = { readonly resolve: (session: Session) => void; readonly reject: (error: Error) => void };

export function controlStream(
  deps: {
    readonly link: ServerLink;
    readonly version: string;
    /** Traffic waits for the server: without a session it is not relayed. */
    readonly isUrgent: () => boolean;
    readonly log: Logger;
  },
  events: ControlEvents,
): ControlStream {
  const controller = new AbortController();
  const redialling = new Redialling();
  const waiters = new Map<number, Waiter>();
  let ws: Ws | null = null;
  let welcomed = false;
  let nextRef = 1;
  /** Ends the connection from this side, for a reason that is told; the next one starts with a whole map. */
  let giveUp: (error: HiggsError) => void = () => undefined;

  function failWaiters(error: Error): void {
    for (const waiter of waiters.values()) waiter.reject(error);
    waiters.clear();
  }

  function take(text: string, session: ServerSession): void {
    let message: ServerMessage;
    try {
      message = serverMessageSchema.parse(JSON.parse(text));
    } catch (thrown) {
      // What was missed may be a change of the map: only a new one is sure to be whole.
      deps.log.warn({ reason: errorText(thrown).slice(0, 200) }, "control message not understood");
      giveUp(
        new ControlError("Cannot understand the server: it is of another version, or something is broken.", {
          code: "server-not-understood",
          remedy: "Update higgs on this machine and on the server.",
        }),
      );
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
      if (message.type === "refused" && waiter === undefined) {
        events.onRefused(new ControlError(message.detail, { code: message.code }));
        return;
      }
      if (message.type === "connected") waiter?.resolve(message.session);
      else waiter?.reject(new ControlError(message.detail, { code: message.code }));
      return;
    }
    if (welcomed) events.onMessage(message);
  }

  /** One connection from dialling to its end; resolves with why it ended. */
  async function once(): Promise<HiggsError> {
    const dialling = redialling.signal(controller.signal);
    const session = await deps.link.session(dialling);
    const ended = Promise.withResolvers<HiggsError>();
    try {
      ws = await session.door.openWs(
        `${API_BASE}/control`,
        {
          token: session.token,
          version: deps.version,
          openTimeoutMs: OPEN_TIMEOUT_MS,
          pingEveryMs: PING_EVERY_MS,
          onText: (text) => take(text, session),
          onClose: ({ code, reason }) => ended.resolve(closeError(code, reason)),
        },
        dialling,
      );
    } catch (thrown) {
      deps.link.invalidate(session);
      throw thrown;
    }
    const onAbort = (): void => ended.reject(dialling.reason);
    dialling.addEventListener("abort", onAbort, { once: true });
    const silent = setTimeout(() => {
      if (welcomed) return;
      ended.resolve(new ControlError("Cannot use the server: it sent no map.", { code: "server-lost" }));
    }, WELCOME_TIMEOUT_MS);
    giveUp = ended.resolve;
    try {
      return await ended.promise;
    } finally {
      clearTimeout(silent);
      giveUp = () => undefined;
      dialling.removeEventListener("abort", onAbort);
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
      let askedMs = 0;
      try {
        const error = await once();
        if (performance.now() - started > 5_000) attempt = 0;
        lostAt = attempt === 0 ? performance.now() : lostAt;
        events.onDown(error);
      } catch (thrown) {
        if (controller.signal.aborted) return;
        askedMs = askedToWaitMs(thrown);
        events.onDown(asHiggsError(thrown));
      }
      const redial = redialMs(attempt++, performance.now() - lostAt, { isUrgent: deps.isUrgent() });
      await redialling.pause(askedMs + redial, controller.signal);
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
    restart: (error) => giveUp(error),
    probe(why) {
      if (why === "moved" || (why === "changed" && ws === null)) redialling.now();
      else ws?.probe(PROBE_MS);
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
