import { describe, expect, test } from "bun:test";
import { HiggsError } from "../../../src/base/errors.ts";
import { ApiError, problemOf, problemResponse, rateLimited } from "../../../src/server/api/problem.ts";
import { authorise, RULES } from "../../../src/server/api/rules.ts";
import { defaultPolicy } from "../../../src/server/policy.ts";
import { machineOf } from "./values.ts";

const mayReach = (a: Parameters<typeof defaultPolicy.mayConnect>[0], b: typeof a): boolean =>
  defaultPolicy.mayConnect(a, b);
const NODE = machineOf(1, "node");
const OTHER_NODE = machineOf(2, "node");
const CLIENT = machineOf(3, "client");

describe("authorise()", () => {
  test("denies what has no rule, whoever asks", () => {
    expect(authorise(undefined, { caller: null, object: null }, mayReach)).toBe("not-found");
    expect(authorise(undefined, { caller: NODE, object: NODE }, mayReach)).toBe("not-found");
  });

  test("lets nobody without a credential do anything but health, the document, and coming in", () => {
    const open = Object.entries(RULES)
      .filter(([, rule]) => authorise(rule, { caller: null, object: NODE }, mayReach) === "allow")
      .map(([route]) => route);
    expect(open).toEqual([
      "GET /api/v1/health",
      "GET /api/v1/health/live",
      "GET /api/v1/health/ready",
      "GET /api/v1/openapi.json",
      "POST /api/v1/proof",
      "POST /api/v1/auth/challenge",
      "POST /api/v1/auth/token",
      "POST /api/v1/nodes/register",
      "POST /api/v1/clients/register",
    ]);
  });

  test("shows a machine to itself and to whom it may connect, and to others not even that it is there", () => {
    const rule = RULES["GET /api/v1/nodes/{id}"];
    expect(authorise(rule, { caller: NODE, object: NODE }, mayReach)).toBe("allow");
    expect(authorise(rule, { caller: CLIENT, object: NODE }, mayReach)).toBe("allow");
    expect(authorise(rule, { caller: OTHER_NODE, object: NODE }, mayReach)).toBe("not-found");
    expect(authorise(rule, { caller: CLIENT, object: null }, mayReach)).toBe("not-found");
    expect(authorise(rule, { caller: NODE, object: CLIENT }, mayReach)).toBe("not-found");
  });

  test("lets only the machine itself act for itself", () => {
    const rule = RULES["DELETE /api/v1/nodes/{id}"];
    expect(authorise(rule, { caller: NODE, object: NODE }, mayReach)).toBe("allow");
    expect(authorise(rule, { caller: CLIENT, object: NODE }, mayReach)).toBe("forbidden");
    expect(authorise(rule, { caller: OTHER_NODE, object: NODE }, mayReach)).toBe("not-found");
    expect(authorise(rule, { caller: null, object: NODE }, mayReach)).toBe("unauthenticated");
  });
});

class SecretError extends HiggsError {
  override readonly name = "SecretError";
}

describe("problemOf()", () => {
  test("tells a deliberate failure's sentence, code and remedy", () => {
    const problem = problemOf(new ApiError("Cannot do X.", { code: "forbidden", remedy: "Do Y." }));
    expect(problem).toEqual({
      type: "about:blank",
      title: "Forbidden",
      status: 403,
      detail: "Cannot do X.",
      code: "forbidden",
      remedy: "Do Y.",
    });
  });

  test("names no path of the server's when its disk is full", () => {
    const full = new SecretError('Cannot write to "/var/lib/x": the disk is full.', { code: "storage-full" });
    expect(problemOf(full)).toMatchObject({ status: 507, code: "storage-full" });
    expect(JSON.stringify(problemOf(full))).not.toContain("/var");
  });

  test("tells nothing of a failure that was not foreseen", () => {
    for (const thrown of [
      new Error("password 123"),
      new SecretError("password 123", { code: "unheard-of" }),
      "password 123",
    ]) {
      const problem = problemOf(thrown);
      expect(problem.status).toBe(500);
      expect(JSON.stringify(problem)).not.toContain("123");
    }
  });
});

test("problemResponse() says when to come back, and how to authenticate", () => {
  expect(problemResponse(rateLimited(1500)).headers.get("retry-after")).toBe("2");
  const response = problemResponse(new ApiError("Cannot.", { code: "unauthenticated" }));
  expect(response.headers.get("www-authenticate")).toContain("Bearer");
  expect(response.headers.get("content-type")).toBe("application/problem+json");
});
