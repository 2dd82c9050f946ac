// The routes about metrics: a machine's report, and what is kept of a machine that the caller may see.
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { API_BASE, machineIdSchema } from "../../proto/api.ts";
import {
  aggregatedMetricsSchema,
  latestMetricsSchema,
  metricsAcceptedSchema,
  metricsHistoryQuerySchema,
  metricsHistorySchema,
  metricsRangeSchema,
  metricsReportSchema,
} from "../../proto/api-metrics.ts";
import { HOURS_KEPT_S, MINUTES_KEPT_S, type Span } from "../metrics/metrics.ts";
import { type ApiDeps, type ApiEnv, callerOf, json, jsonBody, objectOf, PROBLEMS } from "./context.ts";
import { invalid, notFound } from "./problem.ts";

const idParams = z.object({ id: machineIdSchema });
const DAY_MS = 86_400_000;

const reportRoute = createRoute({
  method: "post",
  path: `${API_BASE}/metrics`,
  summary: "The caller's own figures",
  request: { body: jsonBody(metricsReportSchema) },
  responses: { 201: json("They are kept", metricsAcceptedSchema), ...PROBLEMS },
});

const latestRoute = createRoute({
  method: "get",
  path: `${API_BASE}/metrics/{id}/latest`,
  summary: "A machine's last report",
  request: { params: idParams },
  responses: { 200: json("The report", latestMetricsSchema), ...PROBLEMS },
});

const historyRoute = createRoute({
  method: "get",
  path: `${API_BASE}/metrics/{id}/history`,
  summary: "A machine's figures over time, one point per interval",
  request: { params: idParams, query: metricsHistoryQuerySchema },
  responses: { 200: json("The points, oldest first", metricsHistorySchema), ...PROBLEMS },
});

const aggregatedRoute = createRoute({
  method: "get",
  path: `${API_BASE}/metrics/{id}/aggregated`,
  summary: "A machine's averages and sums",
  request: { params: idParams, query: metricsRangeSchema },
  responses: { 200: json("The figures", aggregatedMetricsSchema), ...PROBLEMS },
});

export function addMetricsRoutes(app: OpenAPIHono<ApiEnv>, deps: ApiDeps): void {
  app.openapi(reportRoute, (c) => {
    deps.metrics.report(callerOf(c).id, c.req.valid("json").metrics);
    return c.json({ status: "ok" as const }, 201);
  });
  app.openapi(latestRoute, (c) => {
    const { id } = objectOf(c);
    const latest = deps.metrics.latest(id);
    if (latest === null) throw notFound();
    return c.json({ nodeId: id, timestamp: latest.at, metrics: latest.metrics }, 200);
  });
  app.openapi(historyRoute, async (c) => {
    const { interval, ...range } = c.req.valid("query");
    const span = spanOf(range, (interval === "minute" ? MINUTES_KEPT_S : HOURS_KEPT_S + DAY_MS / 1000) * 1000);
    const metrics = await deps.metrics.history(objectOf(c).id, span, interval);
    return c.json({ metrics, count: metrics.length }, 200);
  });
  app.openapi(aggregatedRoute, async (c) => {
    const span = spanOf(c.req.valid("query"), HOURS_KEPT_S * 1000 + DAY_MS);
    return c.json(await deps.metrics.aggregated(objectOf(c).id, span), 200);
  });
}

function spanOf(
  range: { readonly startTime?: number | undefined; readonly endTime?: number | undefined },
  longestMs: number,
): Span {
  const endMs = range.endTime ?? Date.now();
  const startMs = range.startTime ?? endMs - DAY_MS;
  if (startMs >= endMs) throw invalid("startTime: it is not before endTime");
  if (endMs - startMs > longestMs) {
    throw invalid(`startTime: for this interval it is at most ${longestMs / DAY_MS} days before endTime`);
  }
  return { startMs: Math.max(0, startMs), endMs };
}
