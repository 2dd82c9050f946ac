// Chooses nodes for whoever asks for a route: by load and by what the nodes say of themselves, and grants a session with the best.
import type { MachineId } from "../proto/keys.ts";
import type { Route, RouteRequest, RouteResponse, SelectedRoute } from "../proto/api-routing.ts";
import { notFound } from "./api/problem.ts";
import type { Machine } from "./directory.ts";
import type { Fleet } from "./fleet.ts";
import type { Load, Loads } from "./load.ts";

const ROUTE_MS = 60 * 60_000;
/** Per machine; the oldest go first. */
const MOST_ROUTES = 64;
/** Sessions at which a node counts as full when it has not said anything of its own load. */
const FULL_SESSIONS = 100;
const RELAY_COST = 2;

interface Granted {
  readonly route: Route;
  readonly selected: SelectedRoute;
}

export interface Candidate {
  readonly machine: Machine;
  readonly load: Load | null;
  readonly sessions: number;
}

function bandwidthOf(load: Load | null): number | null {
  const bandwidth = load?.metrics.bandwidth;
  return bandwidth === undefined ? null : Math.min(bandwidth.up, bandwidth.down);
}

/** 0 to 100: what is left of a node. */
export function priorityOf(candidate: Candidate): number {
  const { cpuUsage = 0, memoryUsage = 0 } = candidate.load?.metrics ?? {};
  const used = Math.max(cpuUsage, memoryUsage, (100 * candidate.sessions) / FULL_SESSIONS);
  const left = Math.max(0, 100 - Math.round(used));
  return candidate.load?.isDegraded === true ? Math.min(left, 10) : left;
}

/** Those that will do, best first: by priority, then latency (a node that has said nothing comes last), then name. */
export function rank(
  candidates: readonly Candidate[],
  requirements: RouteRequest["requirements"] = {},
): readonly Candidate[] {
  const { maxLatency = Number.POSITIVE_INFINITY, minBandwidth = 0 } = requirements;
  const latency = (candidate: Candidate): number => candidate.load?.metrics.latency ?? Number.POSITIVE_INFINITY;
  const isUnknown = (candidate: Candidate): boolean =>
    (requirements.maxLatency !== undefined && candidate.load?.metrics.latency === undefined) ||
    (requirements.minBandwidth !== undefined && bandwidthOf(candidate.load) === null);
  return candidates
    .filter((candidate) => (candidate.load?.metrics.latency ?? 0) <= maxLatency)
    .filter((candidate) => (bandwidthOf(candidate.load) ?? Number.POSITIVE_INFINITY) >= minBandwidth)
    .toSorted(
      (a, b) =>
        Number(isUnknown(a)) - Number(isUnknown(b)) ||
        priorityOf(b) - priorityOf(a) ||
        (latency(a) === latency(b) ? 0 : latency(a) - latency(b)) ||
        (a.machine.name < b.machine.name ? -1 : 1),
    );
}

export class Routing {
  readonly #deps: { readonly fleet: Fleet; readonly loads: Loads; readonly relayPath: string };
  /** By machine, then by route; never shown to another machine. */
  readonly #granted = new Map<MachineId, Map<string, Granted>>();

  constructor(deps: { readonly fleet: Fleet; readonly loads: Loads; readonly relayPath: string }) {
    this.#deps = deps;
  }

  /** Throws ApiError `not-found` for a target that the caller may not see. */
  request(caller: Machine, request: RouteRequest): RouteResponse {
    const { fleet } = this.#deps;
    const target = request.targetNodeId ?? null;
    if (target !== null) {
      const node = fleet.directory.get(target);
      if (node === null || node.role !== "node" || !fleet.mayReach(caller, node)) throw notFound();
    }
    const ranked = rank(this.#candidates(caller, target), request.requirements).map((candidate) => ({
      machine: candidate.machine,
      route: routeFor(candidate),
    }));
    const [best] = ranked;
    if (best === undefined) return { routes: [], selectedRoute: null };
    const selectedRoute: SelectedRoute = {
      id: best.route.id,
      nodeId: best.machine.id,
      relayEndpoint: this.#deps.relayPath,
      session: fleet.join(caller, best.machine.id),
      expiresAt: Date.now() + ROUTE_MS,
    };
    this.#keep(caller.id, { route: best.route, selected: selectedRoute });
    return { routes: ranked.map((entry) => entry.route), selectedRoute };
  }

  /** A granted route of the caller's own, as long as its session lives. Throws ApiError `not-found`. */
  route(caller: Machine, id: string): Route {
    const granted = this.#granted.get(caller.id)?.get(id);
    if (granted === undefined || granted.selected.expiresAt <= Date.now()) throw notFound();
    if (this.#deps.fleet.sessions.get(granted.selected.session.id) === null) throw notFound();
    return granted.route;
  }

  forget(machine: MachineId): void {
    this.#granted.delete(machine);
  }

  #candidates(caller: Machine, target: MachineId | null): Candidate[] {
    const { fleet, loads } = this.#deps;
    const found: Candidate[] = [];
    for (const machine of fleet.directory.all()) {
      if (machine.role !== "node" || machine.record === null || (target !== null && machine.id !== target)) continue;
      const presence = fleet.presence.of(machine.id);
      if (!presence.online || presence.exit?.ready !== true || !fleet.mayReach(caller, machine)) continue;
      found.push({ machine, load: loads.of(machine.id), sessions: fleet.sessions.of(machine.id).length });
    }
    return found;
  }

  #keep(machine: MachineId, granted: Granted): void {
    const routes = this.#granted.get(machine) ?? new Map<string, Granted>();
    routes.set(granted.route.id, granted);
    for (const id of [...routes.keys()].slice(0, Math.max(0, routes.size - MOST_ROUTES))) routes.delete(id);
    this.#granted.set(machine, routes);
  }
}

function routeFor(candidate: Candidate): Route {
  return {
    id: crypto.randomUUID(),
    type: "relay",
    path: [candidate.machine.id],
    estimatedLatency: candidate.load?.metrics.latency ?? null,
    estimatedBandwidth: bandwidthOf(candidate.load),
    cost: RELAY_COST,
    priority: priorityOf(candidate),
  };
}
