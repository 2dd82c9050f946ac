// The API: its routes behind one guard, every failure as a problem document, and the OpenAPI document of it all.
import { OpenAPIHono } from "@hono/zod-openapi";
import { errorText } from "../../base/errors.ts";
import { API_BASE } from "../../proto/api.ts";
import type { ApiDeps, ApiEnv } from "./context.ts";
import { addEnrolmentRoutes } from "./enrolment-routes.ts";
import { guard } from "./guard.ts";
import { addHealthRoutes } from "./health-routes.ts";
import { invalid, isExpected, notFound, problemResponse } from "./problem.ts";
import { RULES } from "./rules.ts";

export function createApi(deps: ApiDeps): OpenAPIHono<ApiEnv> {
  const app = new OpenAPIHono<ApiEnv>({
    defaultHook: (result) => {
      if (result.success) return;
      const issue = result.error.issues[0];
      throw invalid(`${issue?.path.join(".") || result.target}: ${issue?.message ?? "it is not of the form that is asked for"}`);
    },
  });
  app.onError((thrown) => {
    // hono's own error for a body that is no JSON, or an absent one
    const failure = "status" in thrown && thrown.status === 400 ? invalid("its body is no JSON") : thrown;
    if (!isExpected(failure)) deps.log.error({ error: errorText(failure), stack: failure.stack }, "request failed");
    return problemResponse(failure);
  });
  app.notFound(() => problemResponse(notFound()));
  app.use("*", guard(deps));
  addHealthRoutes(app, deps);
  addEnrolmentRoutes(app, deps);
  addDocument(app, deps.version);
  return app;
}

function addDocument(app: OpenAPIHono<ApiEnv>, version: string): void {
  app.openAPIRegistry.registerComponent("securitySchemes", "machineToken", {
    type: "http",
    scheme: "bearer",
    description: "From POST /api/v1/auth/token: 15 minutes, opaque",
  });
  let text: string | null = null;
  app.get(`${API_BASE}/openapi.json`, (c) => {
    text ??= documentText(app, version);
    return c.body(text, 200, { "content-type": "application/json" });
  });
}

/** Made once. Which routes need a token is taken from the rules that the guard follows. */
function documentText(app: OpenAPIHono<ApiEnv>, version: string): string {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: { title: "higgs server", version, description: "Coordination of one higgs network. Errors are problem documents (RFC 9457)." },
  });
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const [method, operation] of Object.entries(item)) {
      const rule = RULES[`${method.toUpperCase()} ${path}`];
      if (rule !== undefined && rule.who !== "anyone") operation.security = [{ machineToken: [] }];
    }
  }
  return JSON.stringify(document);
}
