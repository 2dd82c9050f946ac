// The routes about routes: asking for one, and looking at one that was granted.
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { API_BASE } from "../../proto/api.ts";
import { routeRequestSchema, routeResponseSchema, routeSchema } from "../../proto/api-routing.ts";
import { type ApiDeps, type ApiEnv, callerOf, json, jsonBody, PROBLEMS } from "./context.ts";

const requestRoute = createRoute({
  method: "post",
  path: `${API_BASE}/routing/request`,
  summary: "Nodes that the caller could go through, best first, and a session with the best",
  request: { body: jsonBody(routeRequestSchema) },
  responses: { 200: json("The routes", routeResponseSchema), ...PROBLEMS },
});

const routeRoute = createRoute({
  method: "get",
  path: `${API_BASE}/routing/route/{routeId}`,
  summary: "A route that was granted to the caller",
  request: { params: z.object({ routeId: z.uuid() }) },
  responses: { 200: json("The route", routeSchema), ...PROBLEMS },
});

export function addRoutingRoutes(app: OpenAPIHono<ApiEnv>, deps: ApiDeps): void {
  app.openapi(requestRoute, (c) => c.json(deps.routing.request(callerOf(c), c.req.valid("json")), 200));
  app.openapi(routeRoute, (c) => c.json(deps.routing.route(callerOf(c), c.req.valid("param").routeId), 200));
}
