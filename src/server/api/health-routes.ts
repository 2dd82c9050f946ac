// The routes that need no credential: health, and the API's own description.
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_BASE } from "../../proto/api.ts";
import { aliveResponseSchema, healthResponseSchema, readyResponseSchema } from "../../proto/api-nodes.ts";
import { type ApiDeps, type ApiEnv, json, PROBLEMS } from "./context.ts";
import { ApiError } from "./problem.ts";

const healthRoute = createRoute({
  method: "get",
  path: `${API_BASE}/health`,
  summary: "How the server is",
  responses: {
    200: json("It can do its work", healthResponseSchema),
    ...PROBLEMS,
    503: json("It cannot", healthResponseSchema),
  },
});

const readyRoute = createRoute({
  method: "get",
  path: `${API_BASE}/health/ready`,
  summary: "Whether it can do its work",
  responses: { 200: json("It can", readyResponseSchema), ...PROBLEMS },
});

const liveRoute = createRoute({
  method: "get",
  path: `${API_BASE}/health/live`,
  summary: "Whether it runs",
  responses: { 200: json("It does", aliveResponseSchema), ...PROBLEMS },
});

export function addHealthRoutes(app: OpenAPIHono<ApiEnv>, deps: ApiDeps): void {
  app.openapi(healthRoute, async (c) => {
    const report = await deps.health.report();
    return report.status === "healthy" ? c.json(report, 200) : c.json(report, 503);
  });
  app.openapi(readyRoute, async (c) => {
    const report = await deps.health.report();
    if (report.status !== "healthy")
      throw new ApiError("Cannot work: the database does not answer.", { code: "stopping" });
    return c.json({ status: "ready" as const }, 200);
  });
  app.openapi(liveRoute, (c) => c.json({ status: "alive" as const, uptime: deps.health.uptimeS }, 200));
}
