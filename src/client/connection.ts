// The connection of a client: brings map, exit, tunnel, routes and DNS to what is wanted, again after every change.
import { Debounce, raceAbort, repeat, SerialQueue, sleep, Stopped } from "../base/async.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { type Endpoint, formatEndpoint } from "../base/ip.ts";
import type { ClientFirewall, ClientFirewallWanted } from "../net/firewall/client.ts";
import type { LocalNetworks } from "../net/local-networks.ts";
import type { Lockdown } from "../net/lockdown-file.ts";
import type { ClientRoutes } from "../net/routes/client-routes.ts";
import type { Look } from "../net/watch-differences.ts";
import type { SystemDns } from "../net/dns/system-dns.ts";
import type { PeerStats } from "../net/wg/device.ts";
import type { Enrolment } from "../peer/enrolment.ts";
import type { Membership } from "../peer/membership.ts";
import type { MendWhat } from "../peer/mender.ts";
import type { KnownPeer } from "../peer/netmap.ts";
import type { Paths } from "../peer/paths.ts";
import type { Tunnel } from "../peer/tunnel.ts";
import type { MachineId } from "../proto/keys.ts";
import { type ConnectState, step } from "./connect-state.ts";
import { type ExitChoice, type ExitPick, pickExit } from "./exit-choice.ts";
import { firewallPlan, type SystemInputs, systemPlan, tunnelPeers } from "./plan.ts";

export interface ConnectionDeps {
  readonly membership: (onChange: () => void) => Membership;
  readonly openTunnel: (
    ways: {
      readonly membership: Membership;
      /** Resolves when this process' TCP to there goes past the tunnel: for the router, when it is asked for a port. */
      readonly allowTcp: (to: Endpoint) => Promise<void>;
    },
    signal: AbortSignal,
  ) => Promise<Tunnel>;
  readonly routes: ClientRoutes;
  readonly firewall: ClientFirewall;
  readonly dns: SystemDns;
  readonly localNetworks: (signal: AbortSignal) => Promise<LocalNetworks>;
  /** Another program of this machine that keeps everything from the tunnel; null where none does. */
  readonly obstacle: (signal: AbortSignal) => Promise<HiggsError | null>;
  /** What a person decided on the kill switch and the LAN, as of now. */
  readonly protection: () => Lockdown;
  readonly enrolment: () => Enrolment;
  /** Where servers may be dialled, before there is a membership that knows better. */
  readonly carriers: () => readonly Endpoint[];
  readonly interface: string;
  readonly wireGuardPort: number;
  readonly uid: number;
  readonly log: Logger;
}

export interface Connection {
  readonly state: ConnectState;
  readonly membership: Membership;
  readonly exit: KnownPeer | null;
  /** Why it is not connected yet, or what is wrong although it is. */
  readonly trouble: HiggsError | null;
  use(choice: ExitChoice): void;
  /** The machine's links changed, or somebody touched routes or rules. */
  poke(): void;
  /** True while it has the firewall close what does not go through the tunnel. */
  readonly isShielded: boolean;
  /** Resolves when the firewall is as a person decided anew; opens it where nothing is to be closed any more. */
  protect(signal: AbortSignal): Promise<void>;
  /** Puts back what somebody else changed about the tunnel. Resolves with what differed, as sentences. */
  mend(what: MendWhat, signal: AbortSignal): Promise<readonly string[]>;
  /** As the tunnel's. */
  lookAtDevice(signal: AbortSignal): Promise<Look>;
  /** Resolves when connected. Throws the signal's reason, or ConnectError `not-connected` when it is closed meanwhile. */
  connected(signal: AbortSignal): Promise<void>;
  /** Resolves when packets to the exit go directly. Throws as `connected`. */
  direct(signal: AbortSignal): Promise<void>;
  /** Keeps a session with a peer that is no exit, for a while; resolves when the tunnel to it is set. Throws as `connected`. */
  reach(peer: KnownPeer, signal: AbortSignal): Promise<void>;
  stats(signal: AbortSignal): Promise<readonly PeerStats[]>;
  /** Null while there is no better path than the relay to look for. */
  readonly paths: Paths | null;
  /** Ends everything but what the operating system was given: undoing that is the caller's. */
  close(): Promise<void>;
}

export class ConnectError extends HiggsError {
  override readonly name = "ConnectError";
}

interface Shielded {
  readonly inputs: Omit<SystemInputs, "exit">;
  readonly firewall: ClientFirewallWanted;
}

const SETTLE_MS = 5;
/** Wanted and real state are compared this often, whatever happens. */
const RECONCILE_MS = 30_000;
/** WireGuard gives up on a session after this long without a handshake (its paper, section 6.1: Reject-After-Time). */
const SESSION_LIFE_MS = 180_000;
const REACH_MS = 60_000;
/** A router has one place for its description and one for its mappings; the LAN could name any number. */
const MOST_ROUTER_WAYS = 4;
/** A server that refuses a session is asked again after this. */
const REFUSED_PAUSE_MS = 2_000;

export async function connect(deps: ConnectionDeps, choice: ExitChoice, signal: AbortSignal): Promise<Connection> {
  const controller = new AbortController();
  const alive = AbortSignal.any([controller.signal]);
  const queue = new SerialQueue();
  const waiting = new Set<() => void>();
  const reached = new Map<MachineId, number>();
  const asking = new Set<MachineId>();
  let state: ConnectState = step({ kind: "disconnected" }, { kind: "up", atMs: Date.now() });
  let wantedExit = choice;
  let exit: KnownPeer | null = null;
  let trouble: HiggsError | null = null;
  let polling = false;
  let isOpen = false;
  let isTunnelled = false; // routes and DNS have been an exit's
  let isTakenOver = false; // there are rules of ours
  let routerWays: readonly Endpoint[] = [];

  /** A process before this one died with the machine closed: it stays so until this one is connected, or puts everything back. */
  let isInherited = !deps.protection().lockdown && (await deps.firewall.closes(signal));
  const inTheWay = isInherited ? null : await deps.obstacle(signal);
  if (inTheWay !== null) throw inTheWay; // before anything is touched
  if (deps.protection().lockdown || isInherited) {
    // Before the first packet of ours: what is closed lets it pass only then.
    const inputs = await systemInputs({ carriers: deps.carriers(), discoveryPort: null }, signal);
    await deps.firewall.apply(firewallPlan(inputs, "connecting"), signal);
  }
  const membership = deps.membership(() => settle.poke());
  const settle = new Debounce(() => void queue.run(pass), SETTLE_MS);
  let tunnel: Tunnel;
  try {
    tunnel = await deps.openTunnel({ membership, allowTcp }, signal);
    isOpen = true;
  } catch (thrown) {
    settle.cancel();
    await membership[Symbol.asyncDispose]();
    throw thrown;
  }

  async function allowTcp(to: Endpoint): Promise<void> {
    if (routerWays.some((one) => formatEndpoint(one) === formatEndpoint(to))) return;
    routerWays = [...routerWays, to].slice(-MOST_ROUTER_WAYS);
    await queue.run(async () => {
      if (!isOpen || alive.aborted) return;
      const shielded = await shield(alive);
      if (isTakenOver) await takeOver(shielded);
    });
  }

  function advance(next: ConnectState): void {
    if (next === state) return;
    deps.log.info({ from: state.kind, to: next.kind, exit: exit?.name ?? null }, "connection state");
    state = next;
    for (const wake of waiting) wake();
  }

  /** Asks for the sessions that are missing; each answer pokes. */
  function askSessions(wanted: readonly KnownPeer[]): void {
    for (const peer of wanted) {
      if (membership.sessions.has(peer.id) || asking.has(peer.id) || !membership.control.online) continue;
      asking.add(peer.id);
      let pauseMs = 0;
      membership
        .connect(peer.id)
        .catch((thrown: unknown) => {
          trouble = thrown instanceof HiggsError ? thrown : new ConnectError(errorText(thrown), { code: "failed" });
          deps.log.debug({ peer: peer.name, reason: errorText(thrown) }, "no session");
          pauseMs = REFUSED_PAUSE_MS;
        })
        .then(() => sleep(pauseMs, alive))
        .catch(() => undefined) // the connection is closing
        .finally(() => {
          asking.delete(peer.id);
          settle.poke();
        });
    }
  }

  /** Whoever waits for `connected` must not be told of the exit before. */
  function look(): ExitPick {
    const pick = pickExit(membership.map.peers(), wantedExit, exit?.id ?? null);
    if (state.kind === "connected" && leaves(pick, state.exitId)) {
      advance(step(state, { kind: "exit-changed", atMs: Date.now() }));
    }
    return pick;
  }

  function leaves(pick: ExitPick, exitId: string | null): boolean {
    // An exit that is gone from the map stays the chosen one, unless another is named.
    if (pick.kind === "waiting") return exit === null || (wantedExit.kind === "named" && wantedExit.name !== exit.name);
    return (pick.kind === "peer" ? pick.peer.id : null) !== exitId;
  }

  async function pass(): Promise<void> {
    // What the server says before there is a tunnel is looked at by the first pass after.
    if (alive.aborted || !isOpen) return;
    try {
      const pick = look();
      trouble = troubleOf(pick, membership);
      const shielded = await shield(alive);
      if (pick.kind === "waiting" && (exit === null || !isTunnelled)) return;
      // Until there is another, the tunnel is that of the exit before: routes stay in it, and nothing passes.
      if (pick.kind !== "waiting") exit = pick.kind === "peer" ? pick.peer : null;
      const wanted = wantedPeers();
      askSessions(wanted);
      await tunnel.sync(tunnelPeers(wanted, exit?.id ?? null, membership.sessions), alive);
      if (!(await answers())) {
        if (!polling) void poll();
        return;
      }
      await takeOver(shielded);
      isTunnelled = exit !== null;
      isInherited = false;
      if (exit !== null) trouble = (await deps.obstacle(alive)) ?? trouble;
      if (leaves(look(), exit?.id ?? null)) return;
      advance(step(state, { kind: "tunnelled", atMs: Date.now(), exitId: exit?.id ?? null }));
    } catch (thrown) {
      if (alive.aborted) return;
      trouble =
        thrown instanceof HiggsError ? thrown : new ConnectError(errorText(thrown), { code: "failed", cause: thrown });
      deps.log.error({ code: trouble.code }, trouble.message);
    } finally {
      for (const wake of waiting) wake();
    }
  }

  function wantedPeers(): KnownPeer[] {
    const wanted = exit === null || membership.map.get(exit.id) === undefined ? [] : [exit];
    for (const [id, until] of reached) {
      const peer = membership.map.get(id);
      if (peer === undefined || performance.now() > until) reached.delete(id);
      else if (id !== exit?.id) wanted.push(peer);
    }
    return wanted;
  }

  /** True when there is nothing to wait for: no exit is wanted, or the exit's WireGuard has answered. */
  async function answers(): Promise<boolean> {
    if (exit === null) return membership.welcomed;
    const key = exit.machine.wireGuard;
    const stats = (await tunnel.stats(alive)).find((peer) => peer.publicKey === key);
    const at = stats?.lastHandshakeMs ?? null;
    return at !== null && Date.now() - at < SESSION_LIFE_MS;
  }

  /** From the exit's session to its first handshake; a handshake raises no event, so it is looked for while the exit is there, the device or not. */
  async function poll(): Promise<void> {
    polling = true;
    let askedId: MachineId | null = null;
    let sinceMs = 0;
    try {
      while (!alive.aborted && exit !== null && isThere(exit.id)) {
        if (askedId !== exit.id) sinceMs = performance.now();
        askedId = exit.id;
        await sleep(handshakePollMs(performance.now() - sinceMs), alive);
        if (await answers().catch(() => false)) {
          settle.poke();
          return;
        }
      }
    } catch {
      // the connection is closing
    } finally {
      polling = false;
    }
  }

  function isThere(id: MachineId): boolean {
    return membership.sessions.has(id) && membership.map.get(id)?.online === true;
  }

  async function systemInputs(
    known: Pick<SystemInputs, "carriers" | "discoveryPort">,
    inputSignal: AbortSignal,
  ): Promise<Omit<SystemInputs, "exit">> {
    const { ipv4, ipv6, range4, range6 } = deps.enrolment();
    return {
      ...known,
      interface: deps.interface,
      uid: deps.uid,
      addresses: [ipv4, ipv6],
      range4,
      range6,
      wireGuardPort: deps.wireGuardPort,
      networks: await deps.localNetworks(inputSignal),
      protection: deps.protection(),
    };
  }

  function currentInputs(inputSignal: AbortSignal): Promise<Omit<SystemInputs, "exit">> {
    const discoveryPort = tunnel.paths?.discoveryPort ?? null;
    return systemInputs({ carriers: [...membership.carriers(), ...routerWays], discoveryPort }, inputSignal);
  }

  /** What must be closed is closed whether or not the exit answers. Null where nothing must be. */
  async function shield(applySignal: AbortSignal): Promise<Shielded | null> {
    if (!isTunnelled && !isInherited && !deps.protection().lockdown) return null;
    const inputs = await currentInputs(applySignal);
    const firewall = firewallPlan(inputs, isTunnelled ? "connected" : "connecting");
    await deps.firewall.apply(firewall, applySignal);
    return { inputs, firewall };
  }

  async function takeOver(shielded: Shielded | null): Promise<void> {
    const plan = systemPlan({ ...(shielded?.inputs ?? (await currentInputs(alive))), exit });
    isTakenOver = true;
    if (!Bun.deepEquals(plan.firewall, shielded?.firewall)) await deps.firewall.apply(plan.firewall, alive);
    await deps.routes.apply(plan.routes, alive);
    if (plan.dns === null) await deps.dns.reset(alive);
    else await deps.dns.apply(plan.dns, alive);
  }

  const reconciling = repeat(() => queue.run(pass), { everyMs: RECONCILE_MS, signal: alive, onError: () => undefined }); // pass() keeps its failures
  settle.poke();

  function isDirect(): boolean {
    return exit !== null && tunnel.paths?.view(exit.id)?.kind === "direct";
  }

  async function until(condition: () => boolean, waitSignal: AbortSignal): Promise<void> {
    while (!condition()) {
      if (alive.aborted) throw disconnected();
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.add(resolve);
      try {
        await raceAbort(promise, waitSignal);
      } finally {
        waiting.delete(resolve);
      }
    }
  }

  return {
    get state() {
      return state;
    },
    membership,
    get exit() {
      return exit;
    },
    get trouble() {
      return trouble;
    },
    use(next) {
      wantedExit = next;
      look();
      settle.poke();
    },
    poke: () => settle.poke(),
    get isShielded() {
      return isTunnelled || isInherited || deps.protection().lockdown;
    },
    protect: (protectSignal) =>
      queue.run(async () => {
        const closed = await shield(protectSignal);
        if (closed === null) await deps.firewall.apply({ policy: { kind: "disconnected" }, egress: [] }, protectSignal);
        settle.poke(); // the LAN's routes
      }),
    mend: (what, mendSignal) => tunnel.mend(what, AbortSignal.any([mendSignal, alive])),
    lookAtDevice: (lookSignal) => tunnel.lookAtDevice(lookSignal),
    connected: (waitSignal) => until(() => state.kind === "connected", waitSignal),
    direct: (waitSignal) => until(() => state.kind === "connected" && isDirect(), waitSignal),
    async reach(peer, waitSignal) {
      reached.set(peer.id, performance.now() + REACH_MS);
      settle.poke();
      await until(() => tunnel.peers().some((one) => one.id === peer.id && one.session !== null), waitSignal);
    },
    stats: (statsSignal) => tunnel.stats(statsSignal),
    paths: tunnel.paths,
    async close() {
      advance(step(state, { kind: "down" }));
      controller.abort(new Stopped());
      for (const wake of waiting) wake();
      settle.cancel();
      await reconciling;
      await queue.idle();
      // The other end need not wait for us until the server has noticed.
      for (const session of membership.sessions.values()) membership.send({ type: "disconnect", id: session.id });
      await membership[Symbol.asyncDispose]();
      await tunnel[Symbol.asyncDispose]();
    },
  };
}

/** A handshake mostly takes less than a second; one that takes longer is waited for with less and less haste. */
export function handshakePollMs(elapsedMs: number): number {
  return Math.min(1_000, Math.max(20, elapsedMs - 2_000));
}

function disconnected(): ConnectError {
  return new ConnectError("Cannot wait for a connection: this client was disconnected.", {
    code: "not-connected",
    remedy: "higgs client up",
  });
}

function troubleOf(pick: ExitPick, membership: Membership): HiggsError | null {
  if (membership.trouble !== null) return membership.trouble;
  if (pick.kind !== "waiting" || !membership.welcomed) return null;
  return new ConnectError(pick.text, { code: "no-exit", remedy: pick.remedy });
}
