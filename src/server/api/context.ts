// What every route of the API stands on: its dependencies, what a request carries, and the forms that all answers share.
import type { Context } from "hono";
import type { IpAddress } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { problemSchema } from "../../proto/api.ts";
import type { IdentitySecret, SpkiHash } from "../../proto/keys.ts";
import type { Auth } from "../auth.ts";
import type { Machine } from "../directory.ts";
import type { Fleet } from "../fleet.ts";
import type { Health } from "../health.ts";
import type { Limiters } from "../limiters.ts";
import type { Loads } from "../load.ts";
import type { MetricsStore } from "../metrics/metrics.ts";
import type { Network } from "../network.ts";
import type { Routing } from "../routing.ts";
import { notFound, unauthenticated } from "./problem.ts";
import type { RequestCounts } from "./request-counts.ts";

export interface ApiDeps {
  readonly fleet: Fleet;
  readonly auth: Auth;
  readonly identity: IdentitySecret;
  readonly network: Network;
  readonly spki: SpkiHash;
  /** `host:port`, as the server may be reached. */
  readonly names: () => readonly string[];
  readonly limiters: Limiters;
  readonly health: Health;
  readonly loads: Loads;
  readonly routing: Routing;
  readonly metrics: MetricsStore;
  readonly requests: RequestCounts;
  readonly version: string;
  readonly log: Logger;
}

export interface ApiEnv {
  Bindings: { readonly address: IpAddress | null };
  Variables: { readonly caller: Machine | null; readonly object: Machine | null };
}

/** The machine whose token the request carries; the guard has seen to it that there is one. */
export function callerOf(context: Context<ApiEnv>): Machine {
  const caller = context.get("caller");
  if (caller === null) throw unauthenticated();
  return caller;
}

/** The machine that the path names, which the rule has allowed. */
export function objectOf(context: Context<ApiEnv>): Machine {
  const object = context.get("object");
  if (object === null) throw notFound();
  return object;
}

const problem = { content: { "application/problem+json": { schema: problemSchema } } };

/** What any route may answer beside what it is for. */
export const PROBLEMS = {
  400: { description: "The request is not of the form that is asked for", ...problem },
  401: { description: "No valid token, or a proof that does not hold", ...problem },
  403: { description: "Not allowed", ...problem },
  404: { description: "Not there, or not to be seen by who asks", ...problem },
  408: { description: "The rest of the request did not come in time", ...problem },
  409: { description: "It clashes with what is there", ...problem },
  413: { description: "The body is too large", ...problem },
  415: { description: "The body is no JSON by its content type", ...problem },
  426: { description: "This is for WebSockets", ...problem },
  429: { description: "Too many requests", ...problem },
  500: { description: "The server failed", ...problem },
  503: { description: "The server cannot do its work now", ...problem },
  507: { description: "No room left", ...problem },
} as const;

export function jsonBody<T>(schema: T) {
  return { required: true, content: { "application/json": { schema } } };
}

export function json<T>(description: string, schema: T) {
  return { description, content: { "application/json": { schema } } };
}
