// The paths of all sessions: one discovery socket, the gathering of candidates, and an agent for each session.
import { sleep, Stopped } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { type Cidr, type Endpoint, familyOf } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import type { Discovery, DiscoveryMechanism, DiscoveryPort } from "../net/discovery/discovery.ts";
import type { Links } from "../net/links.ts";
import type { Redirect } from "../net/redirect.ts";
import type { PeerMtus } from "../net/routes/peer-mtu.ts";
import type { WireGuardDevice } from "../net/wg/device.ts";
import type { MachineMessage, ServerMessage } from "../proto/control.ts";
import type { MachineId } from "../proto/keys.ts";
import type { Candidate } from "../proto/path.ts";
import { directTarget, isWorthAPacket, sourceTo, targetsOf } from "./candidates.ts";
import { Keepalive } from "./keepalive.ts";
import { Gatherer } from "./gatherer.ts";
import type { PathView } from "./path-agent.ts";
import { readIncoming } from "./path-check.ts";
import { RedirectBoard } from "./path-mover.ts";
import type { PathKind, PathTarget } from "./path-info.ts";
import { type InSession, PeerPath, type PeerPathDeps, type PathSession } from "./peer-path.ts";
import { PeerSizes } from "./peer-sizes.ts";
import { PortSeeker } from "./port-seeker.ts";
import { NO_TRAFFIC, PeerTraffic } from "./peer-traffic.ts";
import type { Doubt } from "./reconnect.ts";
import type { RouterAccess, RouterPortView } from "./router-port.ts";
import type { NatMapping } from "./side-plan.ts";
import type { NatView, StunServers } from "./stun-client.ts";

export interface PathsDeps {
  readonly discovery: (signal: AbortSignal) => Promise<DiscoveryPort>;
  readonly redirect: Redirect;
  readonly device: WireGuardDevice;
  readonly peerMtus: PeerMtus;
  readonly readLinks: (signal: AbortSignal) => Promise<Links>;
  /** False when the control stream is down; then it is sent after the next welcome. */
  readonly send: (message: MachineMessage) => boolean;
  /** Whether the WebSocket leads to the peer now. */
  readonly canRelay: (peer: MachineId) => boolean;
  /** Looks whether the connections to the server live. */
  readonly probeServer: (why: Doubt) => void;
  /** Null while no server was heard of. */
  readonly stun: () => StunServers | null;
  /** Absent where a person wants no port mapped. */
  readonly router?: RouterAccess;
  readonly log: Logger;
}

export interface PathsOptions {
  /** Where the local WireGuard listens: the public port, or another where a bridge of ours has that. */
  readonly wireGuardPort: number;
  /** The one that peers send to and people forward. */
  readonly publicPort: number;
  readonly ranges: readonly Cidr[];
  readonly allowed: ReadonlySet<PathKind>;
  /** `HOST` or `HOST:PORT` that a person forwarded by hand, or null. */
  readonly manual: string | null;
  /** False where WireGuard cannot be trusted with endpoints of both families; then IPv6 is neither told, tried nor answered. */
  readonly ipv6: boolean;
  /** False: no port of a peer is guessed, and none of this machine is opened for it. */
  readonly guessesPorts: boolean;
  readonly onChange: () => void;
}

export interface Paths extends Service {
  /** The socket's own port, which must go past the tunnel; null when no port could be shared. */
  readonly discoveryPort: number | null;
  readonly nat: NatView | null;
  /** How the router in the way gives out ports; "none" when there is no such router, null before it is known. */
  readonly mapping: NatMapping | "none" | null;
  /** WireGuard's persistent keepalive, for this network's router. */
  readonly keepaliveS: number;
  /** The longest silence that a mapping of this network's router was seen to outlive; null before it is known. */
  readonly mappingLifeMs: number | null;
  /** What the router was asked for, and gave. */
  readonly routerPort: RouterPortView;
  /** How WireGuard's packets and discovery share a port here; null when they do not. */
  readonly mechanism: DiscoveryMechanism | null;
  /** True where WireGuard's own port is the one that peers send to, so that a tunnel goes on without this process. */
  readonly canAdopt: boolean;
  /** Brings the agents to these sessions; those without keys stay on the relay. A path outlives the session that found it. */
  sync(sessions: readonly PathSession[]): void;
  /** What the server passes on about paths. */
  take(message: PathMessage): void;
  /** The server is back: what it was told before is forgotten there, or has not reached the other end. */
  welcomed(): void;
  /** The relay brought packets of this peer. */
  relayed(peer: MachineId): void;
  /** The machine's links may have changed; what did not is no reason to search again. */
  networkChanged(): void;
  /** Puts the rules back that somebody flushed. Resolves with what was missing, as sentences. */
  mend(signal: AbortSignal): Promise<readonly string[]>;
  view(peer: MachineId): PathView | null;
  /** Where the peer says that it can be reached. */
  told(peer: MachineId): readonly Candidate[];
}

type PathMessage = Extract<ServerMessage, { type: "candidates" | "punch" }>;

/** Messages for sessions that are not set up yet. */
const MOST_EARLY = 32;
const BUSY_MS = 50;
/** Traffic that starts on a path that died in silence waits for this, and then for what a dead path takes to be known as one. */
const CALM_MS = 250;
const PROBE_APART_MS = 1_000;

/** Throws nothing: where the port cannot be shared, sessions stay on the relay, and `discoveryPort` is null. */
export async function openPaths(deps: PathsDeps, options: PathsOptions, signal: AbortSignal): Promise<Paths> {
  const controller = new AbortController();
  const alive = controller.signal;
  const entries = new Map<MachineId, PeerPath>();
  let discovery: Discovery | null = null;
  const seeker = new PortSeeker();
  const traffic = new PeerTraffic(deps.device, alive);
  const early: PathMessage[] = [];
  let probedAt = Number.NEGATIVE_INFINITY;
  const sizes = new PeerSizes({ peerMtus: deps.peerMtus, log: deps.log }, alive);

  if (options.allowed.has("direct") || options.allowed.has("udp-relay")) {
    try {
      const onMessage = (bytes: Uint8Array, from: Endpoint): void => {
        if (discovery !== null) receive(bytes, from); // nobody was asked before it is open
      };
      const port = await deps.discovery(signal);
      const { wireGuardPort, publicPort } = options;
      discovery = await port.open({ wireGuardPort, publicPort, onMessage }, signal);
    } catch (thrown) {
      signal.throwIfAborted();
      deps.log.warn({ reason: errorText(thrown) }, "no port for discovery; sessions stay on the relay");
    }
  }
  const board = new RedirectBoard({
    redirect: deps.redirect,
    wireGuardPort: options.wireGuardPort,
    sourceTo: (to) => (gatherer.links === null ? null : sourceTo(to, gatherer.links)),
    log: deps.log,
  });
  board.begin();

  const { ranges } = options;
  const router = options.allowed.has("direct") ? (deps.router ?? null) : null;
  const { readLinks, stun, log } = deps;
  const keepalive = new Keepalive({ discovery, log, onChange: options.onChange }, alive);
  const gatherer = new Gatherer(
    { discovery, readLinks, stun, router, log },
    {
      ...options,
      onRound() {
        for (const entry of entries.values()) {
          entry.side.again();
          offer(entry);
        }
      },
      onStun: (answers, credential) => keepalive.follow(answers, credential),
      onLinksChanged(change) {
        keepalive.networkChanged();
        seeker.networkChanged();
        deps.probeServer(change);
        for (const { agent, side } of entries.values()) {
          agent.networkChanged();
          side.networkChanged();
        }
      },
      onRouterPort: options.onChange,
    },
    alive,
  );
  const mayUse = ({ endpoint }: PathTarget): boolean => options.ipv6 || familyOf(endpoint.address) === 4;

  function receive(bytes: Uint8Array, from: Endpoint): void {
    if (!options.ipv6 && familyOf(from.address) === 6) return;
    if (gatherer.stunClient.take(bytes)) return;
    const message = readIncoming(bytes);
    if (message === null) return;
    for (const { agent } of entries.values()) if (agent.take(bytes, message, from)) return;
  }

  function offer(entry: PeerPath): void {
    const { round, own } = gatherer;
    if (round === 0) return;
    deps.send({ type: "candidates", session: entry.of.session.id, round, ...entry.side.told(own) });
    aim(entry);
  }

  function aim(entry: PeerPath): void {
    const { links } = gatherer;
    if (links === null) return;
    const relay = entry.of.session.probe?.relay?.endpoints ?? [];
    const targets = targetsOf(entry.remote, relay, { links, ranges }).filter(mayUse);
    entry.agent.targets([...targets, ...entry.side.targets]);
  }

  const pathDeps = (shared: Discovery): PeerPathDeps => ({
    discovery: shared,
    board,
    device: deps.device,
    seeker,
    stun: deps.stun,
    mapping: () => gatherer.mapping,
    guesses: options.guessesPorts && options.allowed.has("direct"),
    allowed: options.allowed,
    idleMs: () => keepalive.idleMs,
    mayUse,
    target(place) {
      const { links } = gatherer;
      if (links === null || !isWorthAPacket(place.address, { links, ranges })) return null;
      return directTarget(place, links);
    },
    offer(path) {
      const round = gatherer.nextRound();
      offer(path);
      return round;
    },
    onMoved(lost) {
      if (lost) gatherer.pathLost();
      fit();
      options.onChange();
    },
    log: deps.log,
    signal: alive,
  });

  function open(wanted: InSession): void {
    const { probe } = wanted.session;
    if (discovery === null || probe === undefined) return;
    const known = entries.get(wanted.peer);
    if (known !== undefined) known.renew(wanted, probe);
    const entry = known ?? new PeerPath(pathDeps(discovery), wanted, probe);
    entries.set(wanted.peer, entry);
    if (gatherer.round === 0) gatherer.poke();
    else offer(entry);
    for (const message of early.splice(0)) take(message);
  }

  function fit(): void {
    sizes.fit([...entries.values()].map(({ of, agent }) => ({ ...of, sizeBytes: agent.view.sizeBytes })));
  }

  /** What comes before its session has an agent waits for it: the server tells both ends at once. */
  function take(message: PathMessage): void {
    const entry = [...entries.values()].find((one) => one.of.session.id === message.session);
    if (entry === undefined) {
      early.push(message);
      if (early.length > MOST_EARLY) early.shift();
    } else if (message.type === "punch") {
      deps.log.debug({ peer: entry.of.peerName, round: message.round, inMs: message.inMs }, "starting in step");
      entry.side.punch(message.round, message.inMs);
      aim(entry);
      entry.agent.punch(message.inMs);
    } else {
      entry.remote = message.candidates;
      entry.side.remote(message);
      aim(entry);
    }
  }

  /** `toRelay` false leaves a tunnel that outlives this process where it is. */
  function closeEntry(peer: MachineId, { toRelay }: { readonly toRelay: boolean }): void {
    const entry = entries.get(peer);
    entries.delete(peer);
    entry?.close({ toRelay });
  }

  async function tick(): Promise<void> {
    const keys = [...entries.values()].map(({ of }) => of.wireGuard);
    const trafficOf = await traffic.look(keys, performance.now()).catch(() => () => NO_TRAFFIC); // the device is gone for now
    for (const [peer, { of, agent, side }] of entries) {
      agent.setCanRelay(deps.canRelay(peer));
      agent.tick(trafficOf(of.wireGuard));
      side.tick();
    }
    // What made a path suspect may have ended the connections to the server too, and they are what is left then.
    if ([...entries.values()].some(({ agent }) => agent.isSuspect)) probe();
    fit(); // a path may have grown
  }

  function probe(): void {
    if (performance.now() - probedAt < PROBE_APART_MS) return;
    probedAt = performance.now();
    deps.probeServer("silence");
  }

  async function ticking(): Promise<void> {
    while (!alive.aborted) {
      const busy = [...entries.values()].some(({ agent }) => agent.isBusy);
      await sleep(busy ? BUSY_MS : CALM_MS, alive).catch(() => undefined); // the loop ends on abort
      if (alive.aborted) break;
      await tick().catch((thrown: unknown) => deps.log.warn({ reason: errorText(thrown) }, "paths not looked at"));
    }
  }

  const loop = ticking();
  return {
    get discoveryPort() {
      return discovery?.port ?? null;
    },
    get mechanism() {
      return discovery?.mechanism ?? null;
    },
    get canAdopt() {
      return discovery?.mechanism === "nft";
    },
    get nat() {
      return gatherer.nat;
    },
    get mapping() {
      return gatherer.isPublic ? "none" : gatherer.mapping;
    },
    get keepaliveS() {
      return keepalive.wireGuardS;
    },
    get mappingLifeMs() {
      return keepalive.lifeMs;
    },
    get routerPort() {
      return gatherer.routerPort;
    },
    sync(sessions) {
      const wanted = new Map(sessions.map((one) => [one.peer, one]));
      for (const [peer, entry] of entries) {
        if (wanted.get(peer)?.bridge !== entry.of.bridge) closeEntry(peer, { toRelay: true });
      }
      for (const one of sessions) {
        if (one.session === null) continue;
        const now: InSession = { ...one, session: one.session };
        const entry = entries.get(one.peer);
        if (entry?.of.session.id === now.session.id) entry.of = now;
        else open(now);
      }
      fit();
    },
    take,
    welcomed() {
      for (const entry of entries.values()) offer(entry);
      gatherer.poke();
    },
    relayed: (peer) => entries.get(peer)?.agent.relayed(),
    networkChanged() {
      gatherer.look().catch((thrown: unknown) => {
        if (!alive.aborted) deps.log.warn({ reason: errorText(thrown) }, "links not read");
      });
    },
    view(peer) {
      const entry = entries.get(peer);
      return entry === undefined ? null : { ...entry.agent.view, side: entry.side.view };
    },
    told: (peer) => entries.get(peer)?.remote ?? [],
    async mend(mendSignal) {
      board.mend();
      const repaired = (await discovery?.repair(mendSignal)) ?? false;
      if (!repaired) return [];
      deps.log.warn({}, "the rules of WireGuard's shared port were changed by others; put back");
      return ["The rules of WireGuard's shared port were missing."];
    },
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      seeker.close();
      await Promise.all([loop, gatherer[Symbol.asyncDispose](), keepalive[Symbol.asyncDispose]()]);
      for (const peer of [...entries.keys()]) closeEntry(peer, { toRelay: false });
      await board.idle();
      await sizes.idle();
      await discovery?.[Symbol.asyncDispose]();
    },
  };
}
