// The routes by which a machine comes in: the server's proof, enrolment, and challenge and token.
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { fromBase64Url } from "../../base/bytes.ts";
import {
  API_BASE,
  challengeRequestSchema,
  challengeResponseSchema,
  proofRequestSchema,
  proofResponseSchema,
  type RegisterResponse,
  registerRequestSchema,
  registerResponseSchema,
  tokenRequestSchema,
  tokenResponseSchema,
} from "../../proto/api.ts";
import { sign } from "../../proto/keys.ts";
import { serverProofMessage } from "../../proto/proof.ts";
import { AuthError } from "../auth.ts";
import type { Machine } from "../directory.ts";
import { type ApiDeps, type ApiEnv, json, jsonBody, PROBLEMS } from "./context.ts";
import { machineKey } from "./guard.ts";
import { rateLimited } from "./problem.ts";

const proofRoute = createRoute({
  method: "post",
  path: `${API_BASE}/proof`,
  summary: "The network's identity signs a nonce together with this server's certificate",
  request: { body: jsonBody(proofRequestSchema) },
  responses: { 200: json("The proof", proofResponseSchema), ...PROBLEMS },
});

function registerRoute<P extends string>(path: P, summary: string) {
  return createRoute({
    method: "post",
    path,
    summary,
    request: { body: jsonBody(registerRequestSchema) },
    responses: { 200: json("The machine, new or the same again", registerResponseSchema), ...PROBLEMS },
  });
}

const registerNodeRoute = registerRoute(`${API_BASE}/nodes/register`, "Enrols a node with an invite");
const registerClientRoute = registerRoute(`${API_BASE}/clients/register`, "Enrols a client with an invite");

const challengeRoute = createRoute({
  method: "post",
  path: `${API_BASE}/auth/challenge`,
  summary: "What a machine has to sign to get a token; single use",
  request: { body: jsonBody(challengeRequestSchema) },
  responses: { 200: json("The challenge", challengeResponseSchema), ...PROBLEMS },
});

const tokenRoute = createRoute({
  method: "post",
  path: `${API_BASE}/auth/token`,
  summary: "A short opaque token for a signed challenge",
  request: { body: jsonBody(tokenRequestSchema) },
  responses: { 200: json("The token", tokenResponseSchema), ...PROBLEMS },
});

export function addEnrolmentRoutes(app: OpenAPIHono<ApiEnv>, deps: ApiDeps): void {
  app.openapi(proofRoute, (c) => {
    const { nonce } = c.req.valid("json");
    const names = [...deps.names()];
    const message = serverProofMessage({ nonce: fromBase64Url(nonce) ?? new Uint8Array(32), spki: deps.spki, names });
    const signature = sign("higgs server proof v1", message, deps.identity);
    return c.json({ network: deps.network.identity, spki: deps.spki, names, signature }, 200);
  });
  app.openapi(registerNodeRoute, async (c) =>
    c.json(registered(await deps.fleet.register(c.req.valid("json"), "node"), deps), 200),
  );
  app.openapi(registerClientRoute, async (c) =>
    c.json(registered(await deps.fleet.register(c.req.valid("json"), "client"), deps), 200),
  );
  app.openapi(challengeRoute, (c) => {
    const machine = knownMachine(deps, c.req.valid("json").machine);
    return c.json({ challenge: deps.auth.challenge(machine.id), bootId: deps.auth.bootId }, 200);
  });
  app.openapi(tokenRoute, (c) => {
    const answer = c.req.valid("json");
    const machine = knownMachine(deps, answer.machine);
    const key = machineKey(machine, c.env.address);
    const waitMs = deps.limiters.failures.waitMs(key);
    if (waitMs > 0) throw rateLimited(waitMs);
    try {
      return c.json(deps.auth.redeem(answer, machine.identity), 200);
    } catch (thrown) {
      if (thrown instanceof AuthError) deps.limiters.failures.take(key);
      throw thrown;
    }
  });
}

function registered(machine: Machine, deps: ApiDeps): RegisterResponse {
  const { id, name, role, tags, ipv4, ipv6 } = machine;
  const { identity, range4, range6 } = deps.network;
  return { id, name, role, tags: [...tags], network: identity, ipv4, ipv6, range4, range6, servers: [...deps.names()] };
}

function knownMachine(deps: ApiDeps, id: Machine["id"]): Machine {
  const machine = deps.fleet.directory.get(id);
  if (machine === null) {
    throw new AuthError("Cannot accept this machine: it is not enrolled here, or it was revoked.", {
      code: "machine-unknown",
      remedy: "Ask for a new invite, and on this machine: higgs node leave (or client), then join again.",
    });
  }
  return machine;
}
