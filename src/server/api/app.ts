// The API: its routes behind one guard, every failure as a problem document, and the OpenAPI document of it all.
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { MiddlewareHandler } from "hono";
import { errorText } from "../../base/errors.ts";
import { API_BASE } from "../../proto/api.ts";
import { type ApiDeps, type ApiEnv, json, PROBLEMS } from "./context.ts";
import { addEnrolmentRoutes } from "./enrolment-routes.ts";
import { guard, routeOf } from "./guard.ts";
import { addHealthRoutes } from "./health-routes.ts";
import { addMachineRoutes } from "./machine-routes.ts";
import { addMetricsRoutes } from "./metrics-routes.ts";
import { invalid, isExpected, notFound, notJson, problemResponse } from "./problem.ts";
import { addRoutingRoutes } from "./routing-routes.ts";
import { RULES } from "./rules.ts";

export function createApi(deps: ApiDeps): OpenAPIHono<ApiEnv> {
  const app = new OpenAPIHono<ApiEnv>({
    defaultHook: (result) => {
      if (result.success) return;
      const issue = result.error.issues[0];
      throw invalid(
        `${issue?.path.join(".") || result.target}: ${issue?.message ?? "it is not of the form that is asked for"}`,
      );
    },
  });
  app.onError((thrown, context) => {
    const failure = ofHono(thrown);
    if (!isExpected(failure)) {
      // A stranger fills no log: a stack is for what a machine of the network did.
      const isMachine = (context.get("caller") ?? null) !== null;
      deps.log.error({ error: errorText(failure), ...(isMachine ? { stack: failure.stack } : {}) }, "request failed");
    }
    return problemResponse(failure);
  });
  app.notFound(() => problemResponse(notFound()));
  app.use("*", counting(deps));
  app.use("*", guard(deps));
  addHealthRoutes(app, deps);
  addEnrolmentRoutes(app, deps);
  addMachineRoutes(app, deps);
  addRoutingRoutes(app, deps);
  addMetricsRoutes(app, deps);
  addDocument(app, deps.version);
  return app;
}

const documentRoute = createRoute({
  method: "get",
  path: `${API_BASE}/openapi.json`,
  summary: "This document",
  responses: { 200: json("OpenAPI 3.1", z.object({ openapi: z.string() })), ...PROBLEMS },
});

/** hono's own refusals are statuses; what they are about is known by those alone. */
function ofHono(thrown: Error): Error {
  const status = "status" in thrown ? thrown.status : undefined;
  if (status === 400) return invalid("its body is no JSON");
  return status === 415 ? notJson() : thrown;
}

/** Counts after the answer is made, refusals included. */
function counting(deps: ApiDeps): MiddlewareHandler<ApiEnv> {
  return async (context, next) => {
    await next();
    deps.requests.add(routeOf(context) ?? "none", context.res.status);
  };
}

function addDocument(app: OpenAPIHono<ApiEnv>, version: string): void {
  app.openAPIRegistry.registerComponent("securitySchemes", "machineToken", {
    type: "http",
    scheme: "bearer",
    description: "From POST /api/v1/auth/token: 15 minutes, opaque",
  });
  let text: string | null = null;
  app.openapi(documentRoute, (c) => {
    text ??= documentText(app, version);
    // Typed as what the text holds; the text itself is made once.
    return c.body(text, 200, { "content-type": "application/json" }) as never;
  });
}

/** Made once. Which routes need a token is taken from the rules that the guard follows. */
function documentText(app: OpenAPIHono<ApiEnv>, version: string): string {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "higgs server",
      version,
      description: "Coordination of one higgs network. Errors are problem documents (RFC 9457).",
    },
  });
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const [method, operation] of Object.entries(item as Readonly<Record<string, { security?: unknown }>>)) {
      const rule = RULES[`${method.toUpperCase()} ${path}`];
      if (rule !== undefined && rule.who !== "anyone") operation.security = [{ machineToken: [] }];
    }
  }
  return JSON.stringify(document);
}
