// What stands before every route: no browsers, a limit per caller, the machine behind a token, and the one rule that allows the route.
import type { Context, MiddlewareHandler } from "hono";
import { matchedRoutes } from "hono/route";
import { machineIdSchema } from "../../proto/api.ts";
import { limitKey } from "../caller-address.ts";
import type { Machine } from "../directory.ts";
import type { ApiDeps, ApiEnv } from "./context.ts";
import { ApiError, notFound, rateLimited, unauthenticated } from "./problem.ts";
import { authorise, RULES } from "./rules.ts";

/** `/nodes/:id` as hono says it, `/nodes/{id}` as the rules and the document do. */
function declaredPath(path: string): string {
  return path.replace(/:(\w+)/g, "{$1}");
}

/** Method and declared path of the route that will answer, as the rules name it; null when none will. */
export function routeOf(context: Context<ApiEnv>): string | null {
  const method = context.req.method === "HEAD" ? "GET" : context.req.method;
  const route = matchedRoutes(context).findLast((candidate) => candidate.method === method);
  return route === undefined ? null : `${method} ${declaredPath(route.path)}`;
}

/** No page in a browser has business here, and none can leave this header out of what it sends across origins. */
export function refuseBrowsers(headers: Headers): void {
  if (headers.has("origin")) {
    throw new ApiError("Cannot answer a browser here: the request has an Origin header.", { code: "from-a-browser" });
  }
}

export function bearerToken(headers: Headers): string | null {
  return /^Bearer ([A-Za-z0-9_-]{43})$/.exec(headers.get("authorization") ?? "")?.[1] ?? null;
}

/** The machine whose token this is, if it is still enrolled. */
export function machineByToken(deps: Pick<ApiDeps, "auth" | "fleet">, headers: Headers): Machine | null {
  const token = bearerToken(headers);
  const id = token === null ? null : deps.auth.machineOf(token);
  return id === null ? null : deps.fleet.directory.get(id);
}

export function guard(deps: ApiDeps): MiddlewareHandler<ApiEnv> {
  return async (context, next) => {
    refuseBrowsers(context.req.raw.headers);
    const route = routeOf(context);
    const rule = route === null ? undefined : RULES[route];
    const address = limitKey(context.env.address);
    if (rule === undefined || route === null) {
      const waitMs = deps.limiters.open.take(address);
      throw waitMs > 0 ? rateLimited(waitMs) : notFound();
    }
    const caller = rule.who === "anyone" ? null : machineByToken(deps, context.req.raw.headers);
    // A wrong token counts against its address, a right one against its machine: neighbours behind one NAT do not use each other's up.
    const waitMs =
      rule.who !== "anyone" && caller === null
        ? deps.limiters.open.take(address)
        : deps.limiters[rule.limit].take(caller?.id ?? address);
    if (waitMs > 0) throw rateLimited(waitMs);
    const at = route.split("/").indexOf("{id}");
    const named = at < 0 ? null : machineIdSchema.safeParse(context.req.path.split("/")[at]);
    const object = named?.success === true ? deps.fleet.directory.get(named.data) : null;
    const decision = authorise(rule, { caller, object }, (a, b) => deps.fleet.mayReach(a, b));
    if (decision === "unauthenticated") throw unauthenticated();
    if (decision === "not-found") throw notFound();
    if (decision === "forbidden") throw new ApiError("Cannot do this: it is another machine's.", { code: "forbidden" });
    context.set("caller", caller);
    context.set("object", object);
    await next();
  };
}
