// The server's rate limits, each by its name.
import { DEFAULT_LIMITS, type Limits } from "./options.ts";
import { RateLimit } from "../base/rate-limit.ts";

export type Limiters = { readonly [K in keyof Limits]: RateLimit };

export function createLimiters(overrides: Partial<Limits> = {}): Limiters {
  const limits: Limits = { ...DEFAULT_LIMITS, ...overrides };
  return {
    enrol: new RateLimit(limits.enrol),
    proof: new RateLimit(limits.proof),
    auth: new RateLimit(limits.auth),
    signatures: new RateLimit(limits.signatures),
    failures: new RateLimit(limits.failures),
    api: new RateLimit(limits.api),
    open: new RateLimit(limits.open),
    upgrade: new RateLimit(limits.upgrade),
    stun: new RateLimit(limits.stun),
  };
}
