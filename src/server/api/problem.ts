// From an error to a status: the only place that knows both.
import { HiggsError } from "../../base/errors.ts";
import type { Problem } from "../../proto/api.ts";

export class ApiError extends HiggsError {
  override readonly name = "ApiError";
}

/** By code. What is not here is a failure of ours, and its text is for the log only. */
const STATUS: Readonly<Record<string, number>> = {
  "already-enrolled": 409,
  "body-late": 408,
  "body-too-large": 413,
  "enrolment-proof": 401,
  forbidden: 403,
  "from-a-browser": 403,
  invalid: 400,
  "invite-expired": 403,
  "invite-revoked": 403,
  "invite-unknown": 403,
  "invite-used": 403,
  "invite-wrong-role": 403,
  "key-taken": 409,
  "machine-revoked": 403,
  "machine-unknown": 401,
  "name-taken": 409,
  "not-found": 404,
  "no-upgrade": 426,
  "peer-unknown": 404,
  "proof-refused": 401,
  "range-full": 507,
  "rate-limited": 429,
  stopping: 503,
  "storage-full": 507,
  unauthenticated: 401,
  "unsupported-media-type": 415,
};

const TITLES: Readonly<Record<number, string>> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  408: "Request Timeout",
  409: "Conflict",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  426: "Upgrade Required",
  429: "Too Many Requests",
  500: "Internal Server Error",
  503: "Service Unavailable",
  507: "Insufficient Storage",
};

/** RFC 9457. Only a deliberate failure's own sentence leaves the server. */
export function problemOf(thrown: unknown): Problem {
  const status = thrown instanceof HiggsError ? STATUS[thrown.code] : undefined;
  if (!(thrown instanceof HiggsError) || status === undefined) {
    return {
      type: "about:blank",
      title: TITLES[500] ?? "",
      status: 500,
      detail: "Cannot answer: the server failed. Its log says why.",
      code: "internal",
    };
  }
  return {
    type: "about:blank",
    title: TITLES[status] ?? "",
    status,
    // The sentence for whoever runs the server names a path, which is nobody else's business.
    detail: thrown.code === "storage-full" ? "Cannot keep this: the server's disk is full." : thrown.message,
    code: thrown.code,
    ...(thrown.remedy === undefined ? {} : { remedy: thrown.remedy }),
  };
}

export function isExpected(thrown: unknown): boolean {
  return problemOf(thrown).status < 500;
}

export function problemResponse(thrown: unknown): Response {
  const problem = problemOf(thrown);
  const headers = new Headers({ "content-type": "application/problem+json", "cache-control": "no-store" });
  if (problem.status === 401) headers.set("www-authenticate", 'Bearer realm="higgs"');
  const waitMs = thrown instanceof HiggsError ? thrown.detail.waitMs : undefined;
  if (typeof waitMs === "number") headers.set("retry-after", String(Math.ceil(waitMs / 1000)));
  return new Response(JSON.stringify(problem), { status: problem.status, headers });
}

export function rateLimited(waitMs: number): ApiError {
  return new ApiError("Cannot answer now: too many requests from there.", {
    code: "rate-limited",
    remedy: `Try again in ${Math.ceil(waitMs / 1000)} s.`,
    detail: { waitMs },
  });
}

export function notFound(): ApiError {
  return new ApiError("Cannot find that.", { code: "not-found" });
}

export function unauthenticated(): ApiError {
  return new ApiError("Cannot answer without a valid token.", {
    code: "unauthenticated",
    remedy: "Prove the machine's identity anew: POST /api/v1/auth/challenge, then /api/v1/auth/token.",
  });
}

export function notJson(): ApiError {
  return new ApiError("Cannot read the request: its body is no application/json.", {
    code: "unsupported-media-type",
    remedy: "Send the header content-type: application/json",
  });
}

export function invalid(detail: string): ApiError {
  return new ApiError(`Cannot read the request: ${detail}.`, { code: "invalid" });
}
