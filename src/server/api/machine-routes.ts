// The routes about machines: who there is, a node's heartbeat, and leaving.
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { API_BASE, machineIdSchema } from "../../proto/api.ts";
import {
  clientsResponseSchema,
  heartbeatRequestSchema,
  heartbeatResponseSchema,
  type MachineView,
  machineSchema,
  nodesResponseSchema,
} from "../../proto/api-nodes.ts";
import type { Role } from "../../proto/role.ts";
import type { Machine } from "../directory.ts";
import { type ApiDeps, type ApiEnv, callerOf, json, jsonBody, objectOf, PROBLEMS } from "./context.ts";

const idParams = z.object({ id: machineIdSchema });

const nodesRoute = createRoute({
  method: "get",
  path: `${API_BASE}/nodes`,
  summary: "The nodes that the caller may see",
  responses: { 200: json("The nodes", nodesResponseSchema), ...PROBLEMS },
});

const clientsRoute = createRoute({
  method: "get",
  path: `${API_BASE}/clients`,
  summary: "The clients that the caller may see",
  responses: { 200: json("The clients", clientsResponseSchema), ...PROBLEMS },
});

function oneRoute<P extends string>(path: P, summary: string) {
  return createRoute({
    method: "get",
    path,
    summary,
    request: { params: idParams },
    responses: { 200: json("The machine", machineSchema), ...PROBLEMS },
  });
}

function leaveRoute<P extends string>(path: P, summary: string) {
  return createRoute({
    method: "delete",
    path,
    summary,
    request: { params: idParams },
    responses: { 204: { description: "It is out of the network" }, ...PROBLEMS },
  });
}

const nodeRoute = oneRoute(`${API_BASE}/nodes/{id}`, "One node");
const clientRoute = oneRoute(`${API_BASE}/clients/{id}`, "One client");
const leaveNodeRoute = leaveRoute(`${API_BASE}/nodes/{id}`, "The node that calls leaves the network");
const leaveClientRoute = leaveRoute(`${API_BASE}/clients/{id}`, "The client that calls leaves the network");

const heartbeatRoute = createRoute({
  method: "post",
  path: `${API_BASE}/nodes/{id}/heartbeat`,
  summary: "A node says how it is",
  request: { params: idParams, body: jsonBody(heartbeatRequestSchema) },
  responses: { 200: json("When to say so again", heartbeatResponseSchema), ...PROBLEMS },
});

export function addMachineRoutes(app: OpenAPIHono<ApiEnv>, deps: ApiDeps): void {
  app.openapi(nodesRoute, (c) => {
    const nodes = visibleTo(deps, callerOf(c), "node");
    return c.json({ nodes, count: nodes.length }, 200);
  });
  app.openapi(clientsRoute, (c) => {
    const clients = visibleTo(deps, callerOf(c), "client");
    return c.json({ clients, count: clients.length }, 200);
  });
  app.openapi(nodeRoute, (c) => c.json(viewOf(deps, objectOf(c)), 200));
  app.openapi(clientRoute, (c) => c.json(viewOf(deps, objectOf(c)), 200));
  app.openapi(leaveNodeRoute, async (c) => {
    await deps.fleet.remove(objectOf(c), "machine-left");
    return c.body(null, 204);
  });
  app.openapi(leaveClientRoute, async (c) => {
    await deps.fleet.remove(objectOf(c), "machine-left");
    return c.body(null, 204);
  });
  app.openapi(heartbeatRoute, (c) => {
    const { id } = objectOf(c);
    deps.fleet.presence.seen(id);
    const nextHeartbeat = deps.loads.note(id, c.req.valid("json"));
    return c.json({ status: "ok" as const, nextHeartbeat, actions: [] }, 200);
  });
}

/** The caller is among them when it is of that role. */
function visibleTo(deps: ApiDeps, caller: Machine, role: Role): MachineView[] {
  const views: MachineView[] = [];
  for (const machine of deps.fleet.directory.all()) {
    if (machine.role !== role) continue;
    if (machine.id === caller.id || deps.fleet.mayReach(caller, machine)) views.push(viewOf(deps, machine));
  }
  return views.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function viewOf(deps: ApiDeps, machine: Machine): MachineView {
  const { id, name, role, tags, ipv4, ipv6, version, lastSeenAt } = machine;
  const presence = deps.fleet.presence.of(id);
  const degraded = deps.loads.of(id)?.isDegraded === true;
  return {
    id,
    name,
    role,
    tags: [...tags],
    ipv4,
    ipv6,
    online: presence.online,
    status: presence.online ? (degraded ? "degraded" : "online") : "offline",
    publicAddress: presence.address,
    exit: presence.exit,
    version,
    lastSeenAt: presence.seenAt ?? lastSeenAt,
  };
}
