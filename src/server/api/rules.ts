// Who may do what: one table of all routes and one function; what is not in the table is denied.
import type { MachineId } from "../../proto/keys.ts";
import type { Role } from "../../proto/role.ts";
import type { Machine } from "../directory.ts";

/** Which of the server's rate limits counts a route's requests. */
export type LimitName = "open" | "proof" | "auth" | "enrol" | "api";

export interface Rule {
  /**
   * `anyone`: no credential. `machine`: any enrolled machine, which then gets only what concerns it. `self`: the machine that the path names.
   * `visible`: that machine, or one that may connect to it.
   */
  readonly who: "anyone" | "machine" | "self" | "visible";
  /** Only machines of this role. */
  readonly role?: Role;
  /** The path names a machine of this role; one of another role is not found. */
  readonly object?: Role | "any";
  readonly limit: LimitName;
  /** Answering it costs a signature, made or looked at. */
  readonly signs?: true;
}

const OPEN: Rule = { who: "anyone", limit: "open" };
const PROOF: Rule = { who: "anyone", limit: "proof", signs: true };
const CHALLENGE: Rule = { who: "anyone", limit: "auth" };
const TOKEN: Rule = { who: "anyone", limit: "auth", signs: true };
const ENROL: Rule = { who: "anyone", limit: "enrol" };

/** By method and path, as the routes are declared. */
export const RULES: Readonly<Record<string, Rule>> = {
  "GET /api/v1/health": OPEN,
  "GET /api/v1/health/live": OPEN,
  "GET /api/v1/health/ready": OPEN,
  "GET /api/v1/openapi.json": OPEN,
  "POST /api/v1/proof": PROOF,
  "POST /api/v1/auth/challenge": CHALLENGE,
  "POST /api/v1/auth/token": TOKEN,
  "POST /api/v1/nodes/register": ENROL,
  "POST /api/v1/clients/register": ENROL,
  "GET /api/v1/nodes": { who: "machine", limit: "api" },
  "GET /api/v1/nodes/{id}": { who: "visible", object: "node", limit: "api" },
  "POST /api/v1/nodes/{id}/heartbeat": { who: "self", role: "node", object: "node", limit: "api" },
  "DELETE /api/v1/nodes/{id}": { who: "self", role: "node", object: "node", limit: "api" },
  "GET /api/v1/clients": { who: "machine", limit: "api" },
  "GET /api/v1/clients/{id}": { who: "visible", object: "client", limit: "api" },
  "DELETE /api/v1/clients/{id}": { who: "self", role: "client", object: "client", limit: "api" },
  "POST /api/v1/routing/request": { who: "machine", limit: "api" },
  "GET /api/v1/routing/route/{routeId}": { who: "machine", limit: "api" },
  "POST /api/v1/metrics": { who: "machine", limit: "api" },
  "GET /api/v1/metrics/{id}/latest": { who: "visible", object: "any", limit: "api" },
  "GET /api/v1/metrics/{id}/history": { who: "visible", object: "any", limit: "api" },
  "GET /api/v1/metrics/{id}/aggregated": { who: "visible", object: "any", limit: "api" },
};

export type Decision = "allow" | "unauthenticated" | "forbidden" | "not-found";

export interface Request {
  readonly caller: Machine | null;
  /** The machine that the path names; null when it names none, or one that is not enrolled. */
  readonly object: Machine | null;
}

/** `mayReach`: policy. Whoever may not see a machine learns nothing of it, not even that it is there. */
export function authorise(
  rule: Rule | undefined,
  request: Request,
  mayReach: (a: Machine, b: Machine) => boolean,
): Decision {
  if (rule === undefined) return "not-found";
  if (rule.who === "anyone") return "allow";
  const { caller, object } = request;
  if (caller === null) return "unauthenticated";
  if (rule.who === "machine") return rule.role === undefined || rule.role === caller.role ? "allow" : "forbidden";
  if (object === null) return "not-found";
  const isSelf: boolean = (object.id satisfies MachineId) === caller.id;
  if (!isSelf && !mayReach(caller, object)) return "not-found";
  if (rule.object !== "any" && object.role !== rule.object) return "not-found";
  if (rule.who === "self" && !isSelf) return "forbidden";
  return rule.role === undefined || rule.role === caller.role ? "allow" : "forbidden";
}
