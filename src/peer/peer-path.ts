// The path to one peer: its mover and side ports, which last as long as the peer, and an agent for each session.
import type { Cidr, Endpoint } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Discovery } from "../net/discovery/discovery.ts";
import type { WireGuardDevice } from "../net/wg/device.ts";
import type { Session } from "../proto/control.ts";
import type { MachineId, WireGuardKey } from "../proto/keys.ts";
import type { Candidate, Probe } from "../proto/path.ts";
import type { Bridge } from "./bridge.ts";
import { livingTarget } from "./candidates.ts";
import { PathAgent } from "./path-agent.ts";
import { adopted, type PathInfo, type PathKind, type PathTarget, type Place } from "./path-info.ts";
import { PathMover, type RedirectBoard } from "./path-mover.ts";
import { SideSearch, type SideSearchDeps } from "./side-search.ts";

export interface PathSession {
  readonly peer: MachineId;
  readonly peerName: string;
  readonly wireGuard: WireGuardKey;
  /** What is sent to the peer, and gets smaller where its path is narrow. */
  readonly allowedIps: readonly Cidr[];
  /** Null from the end of one session until the next is granted: the path stays as it is. */
  readonly session: Session | null;
  readonly bridge: Bridge;
  /** Where a device that was taken over sends to, if its tunnel lives and not by the WebSocket. */
  readonly living: Endpoint | null;
}

export interface InSession extends PathSession {
  readonly session: Session;
}

export interface PeerPathDeps
  extends Pick<SideSearchDeps, "stun" | "mapping" | "guesses" | "seeker" | "target" | "log"> {
  readonly discovery: Discovery;
  readonly board: RedirectBoard;
  readonly device: WireGuardDevice;
  readonly allowed: ReadonlySet<PathKind>;
  /** How long a path may be silent before a router forgets it. */
  readonly idleMs: () => number;
  /** False for a family that WireGuard cannot be trusted with. */
  readonly mayUse: (target: PathTarget) => boolean;
  /** Tells the peer anew; gives the round. */
  readonly offer: (path: PeerPath) => number;
  readonly onMoved: (lost: boolean) => void;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

export class PeerPath {
  readonly #deps: PeerPathDeps;
  readonly mover: PathMover;
  readonly side: SideSearch;
  of: InSession;
  agent: PathAgent;
  /** Where the peer says that it is. */
  remote: readonly Candidate[] = [];

  constructor(deps: PeerPathDeps, of: InSession, probe: Probe) {
    this.#deps = deps;
    this.of = of;
    const { discovery, device, signal } = deps;
    const { peer, peerName, wireGuard, bridge } = of;
    this.mover = new PathMover({
      discovery,
      board: deps.board,
      bridge,
      endpoint: async () => (await device.stats(signal)).find((one) => one.publicKey === wireGuard)?.endpoint ?? null,
      setEndpoint: (endpoint) => device.setEndpoint(wireGuard, endpoint, signal),
      sidePort: (port) => this.side.port(port),
      log: deps.log,
    });
    this.side = new SideSearch({
      ...deps,
      peer,
      peerName,
      agent: () => this.agent,
      openSide: (onDatagram) => discovery.openSide(onDatagram),
      send: (bytes, to) => void discovery.send(bytes, to),
      offer: () => deps.offer(this),
      inject: (packets) => bridge.inject(packets),
      onClosed: (port) => {
        this.agent.sideClosed(port);
        this.mover.closedSide(port);
      },
    });
    this.agent = this.#openAgent(probe, this.#living());
  }

  /** Another session with the same peer: the path stays, and is checked under its keys. */
  renew(of: InSession, probe: Probe): void {
    this.of = of;
    this.remote = [];
    const before = this.agent;
    before.close();
    this.agent = this.#openAgent(probe, before.current, before.heardAt);
  }

  /** `toRelay` false leaves a tunnel that outlives this process where it is. */
  close({ toRelay }: { readonly toRelay: boolean }): void {
    this.agent.close();
    this.side.close();
    this.mover.close({ toRelay });
  }

  /** What an earlier process left carrying the tunnel; null when there is nothing, or nobody allows it any more. */
  #living(): PathInfo | null {
    const { living, session } = this.of;
    if (living === null) return null;
    const target = livingTarget(living, session.probe?.relay?.endpoints ?? []);
    if (!this.#deps.allowed.has(target.kind) || !this.#deps.mayUse(target)) {
      this.mover.move(null, living, false);
      return null;
    }
    this.mover.adopt(living);
    return adopted(target, performance.now());
  }

  #openAgent(probe: Probe, taken: PathInfo | null, heardAt?: number): PathAgent {
    const { discovery, target, allowed, idleMs, onMoved, log } = this.#deps;
    const sidePort = (port: number) => this.side.port(port);
    const { peerName, session } = this.of;
    return new PathAgent(
      {
        discovery,
        mover: this.mover,
        sidePort,
        target: (place: Place) => target(place),
        allowed,
        idleMs,
        peerName,
        onMoved,
        log,
      },
      session,
      { probe, adopted: taken, ...(heardAt === undefined ? {} : { heardAt }) },
    );
  }
}
