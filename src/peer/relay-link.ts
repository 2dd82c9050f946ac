// The relay connection of a machine: one WebSocket that carries the frames of all its sessions, redialled for ever.
import { Stopped } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { Ws } from "../net/ws.ts";
import { countWireGuardPackets, framePackets, frameSession } from "../proto/relay-frame.ts";
import { isInitiation } from "../proto/wireguard-packet.ts";
import { askedToWaitMs, type Doubt, PROBE_MS, Redialling, redialMs } from "./reconnect.ts";
import type { ServerLink } from "./server-link.ts";

/** What takes the packets of one session. */
export type PacketSink = (packets: readonly Uint8Array[]) => void;

export interface RelayCounters {
  readonly framesOut: number;
  readonly bytesOut: number;
  readonly framesIn: number;
  readonly bytesIn: number;
  /** Frames that were not sent because too much was waiting, or nobody was connected. */
  readonly droppedOut: number;
  /** Frames that were malformed, or of no session of ours. */
  readonly droppedIn: number;
}

export interface RelayLink extends Service {
  readonly online: boolean;
  /** Packets went by it just now, or wait to. */
  readonly isUrgent: boolean;
  readonly counters: RelayCounters;
  /**
   * Drops (and counts) rather than queues; only the last handshake of each session waits for a connection that is being
   * made. The frame is copied before this returns.
   */
  send(frame: Uint8Array): void;
  attach(session: number, sink: PacketSink): void;
  detach(session: number): void;
  /** Looks whether the connection lives, or dials anew, as there is reason to. */
  probe(why: Doubt): void;
}

/**
 * What may wait in userspace for a slow line: enough for some ten milliseconds at a gigabit, so that a burst is not cut,
 * and little enough that the tunnel's own congestion control notices.
 */
const MOST_WAITING_BYTES = 1_048_576;
const OPEN_TIMEOUT_MS = 8_000;
const PING_EVERY_MS = 5_000;
/** WireGuard's keepalives come every 25 s: somebody else's packets, then. */
const URGENT_MS = 10_000;

export function relayLink(
  deps: { readonly link: ServerLink; readonly log: Logger },
  events: { readonly path: () => string; readonly onChange: (online: boolean) => void },
): RelayLink {
  const controller = new AbortController();
  const redialling = new Redialling();
  const sinks = new Map<number, PacketSink>();
  const held = new Map<number, Uint8Array>();
  const counters = { framesOut: 0, bytesOut: 0, framesIn: 0, bytesIn: 0, droppedOut: 0, droppedIn: 0 };
  let ws: Ws | null = null;
  let usedAt = Number.NEGATIVE_INFINITY;
  const isUrgent = (): boolean => performance.now() - usedAt < URGENT_MS;

  function take(frame: Uint8Array): void {
    const sink = sinks.get(frameSession(frame));
    if (sink === undefined || countWireGuardPackets(frame) < 0) {
      counters.droppedIn++;
      return;
    }
    usedAt = performance.now();
    counters.framesIn++;
    counters.bytesIn += frame.length;
    sink(framePackets(frame));
  }

  function send(frame: Uint8Array): void {
    usedAt = performance.now();
    if (ws === null && framePackets(frame).some(isInitiation)) {
      held.set(frameSession(frame), frame.slice());
      return;
    }
    if (ws === null || ws.bufferedBytes > MOST_WAITING_BYTES) {
      counters.droppedOut++;
      return;
    }
    counters.framesOut++;
    counters.bytesOut += frame.length;
    ws.send(frame);
  }

  async function once(): Promise<string> {
    const dialling = redialling.signal(controller.signal);
    const session = await deps.link.session(dialling);
    const ended = Promise.withResolvers<string>();
    try {
      ws = await session.door.openWs(
        events.path(),
        {
          token: session.token,
          openTimeoutMs: OPEN_TIMEOUT_MS,
          pingEveryMs: PING_EVERY_MS,
          onBinary: take,
          onClose: ({ code, reason }) => ended.resolve(reason || String(code)),
        },
        dialling,
      );
    } catch (thrown) {
      deps.link.invalidate(session);
      throw thrown;
    }
    const onAbort = (): void => ended.reject(dialling.reason);
    dialling.addEventListener("abort", onAbort, { once: true });
    for (const frame of held.values()) send(frame);
    held.clear();
    events.onChange(true);
    try {
      return await ended.promise;
    } finally {
      dialling.removeEventListener("abort", onAbort);
      ws?.close();
      ws = null;
      if (!controller.signal.aborted) events.onChange(false);
    }
  }

  async function loop(): Promise<void> {
    let attempt = 0;
    let lostAt = performance.now();
    while (!controller.signal.aborted) {
      const started = performance.now();
      let askedMs = 0;
      try {
        const why = await once();
        if (performance.now() - started > 5_000) {
          attempt = 0;
          lostAt = performance.now();
        }
        deps.log.info({ reason: why }, "relay connection lost");
      } catch (thrown) {
        if (controller.signal.aborted) return;
        askedMs = askedToWaitMs(thrown);
        deps.log.debug({ reason: errorText(thrown) }, "relay not reached");
      }
      const redial = redialMs(attempt++, performance.now() - lostAt, { isUrgent: isUrgent() });
      await redialling.pause(askedMs + redial, controller.signal);
    }
  }

  const running = loop();
  return {
    get online() {
      return ws !== null;
    },
    get isUrgent() {
      return isUrgent();
    },
    counters,
    send,
    attach: (session, sink) => void sinks.set(session, sink),
    detach(session) {
      sinks.delete(session);
      held.delete(session);
    },
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
