// What stands before every route: no browsers, a limit per caller, the machine behind a token, and the one rule that allows the route.
import type { Context, MiddlewareHandler } from "hono";
import { matchedRoutes } from "hono/route";
import type { IpAddress } from "../../base/ip.ts";
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

/**
 * Whom a machine's proof counts against: the machine that it names, together with the address that it comes from, so that neither the
 * hundreds behind one address use each other's up, nor a stranger who knows its id.
 */
export function machineKey(machine: Machine, address: IpAddress | null): string {
  return `${machine.id} ${limitKey(address)}`;
}

/** For what names no enrolled machine, the address alone. */
async function authKey(deps: ApiDeps, context: Context<ApiEnv>): Promise<string> {
  const { address } = context.env;
  // The body is in memory, and hono keeps what it made of it for the route. What is none is refused there.
  const body: unknown = await context.req.json().catch(() => null);
  const named = machineIdSchema.safeParse((body as { machine?: unknown } | null)?.machine);
  const machine = named.success ? deps.fleet.directory.get(named.data) : null;
  return machine === null ? limitKey(address) : machineKey(machine, address);
}

/** The key of a limit that all callers share. */
const EVERYBODY = "";

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
    const isWrong = rule.who !== "anyone" && caller === null;
    const key = rule.limit === "auth" ? await authKey(deps, context) : (caller?.id ?? address);
    const waitMs = isWrong ? deps.limiters.open.take(address) : deps.limiters[rule.limit].take(key);
    if (waitMs > 0) throw rateLimited(waitMs);
    // After the caller's own limit: what that refuses takes nothing from the others.
    const busyMs = rule.signs === true ? deps.limiters.signatures.take(EVERYBODY) : 0;
    if (busyMs > 0) throw rateLimited(busyMs);
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
