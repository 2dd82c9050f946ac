// What the server can be told, and the limits it keeps.
import type { Cidr, HostPort } from "../base/ip.ts";
import type { Rate } from "../base/rate-limit.ts";
import type { Quota } from "./relay/quota.ts";

export interface Limits {
  /** Per caller: enrolments, which may be guesses. */
  readonly enrol: readonly Rate[];
  /** Per caller: the server's own proofs. */
  readonly proof: readonly Rate[];
  /** Per enrolled machine and caller: challenges and tokens, two for each dial. Per caller for ids that nobody has. */
  readonly auth: readonly Rate[];
  /** For all callers together: what costs a signature, so that a flood from many addresses leaves the relay its processor. */
  readonly signatures: readonly Rate[];
  /** Per enrolled machine and caller: proofs that failed; once they are used up, the caller waits. */
  readonly failures: readonly Rate[];
  /** Per machine: requests with a token. */
  readonly api: readonly Rate[];
  /** Per caller: health and the OpenAPI document. */
  readonly open: readonly Rate[];
  /** Per caller, and per machine: WebSocket upgrades. */
  readonly upgrade: readonly Rate[];
  /** Per caller: STUN requests. */
  readonly stun: readonly Rate[];
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/**
 * Behind one address may be a household with a dozen machines, or a provider's NAT with hundreds, all of which come back at once after
 * a power cut or a restart of the server: what they need for that is counted by machine where the machine is known, and generously where
 * it is not yet. An attacker gets no further with these than a bored guess: an invite's secret has 256 bits. A signature costs a third of a
 * millisecond, and looking at one half of one: 1 200 a minute are about 1 % of a processor, 300 a second about 15 %.
 */
export const DEFAULT_LIMITS: Limits = {
  enrol: [
    { burst: 5, perMs: MINUTE },
    { burst: 20, perMs: HOUR },
  ],
  proof: [{ burst: 1200, perMs: MINUTE }],
  auth: [{ burst: 60, perMs: MINUTE }],
  signatures: [{ burst: 3000, perMs: 10_000 }],
  failures: [{ burst: 10, perMs: 10 * MINUTE }],
  api: [{ burst: 60, perMs: MINUTE }],
  open: [{ burst: 60, perMs: MINUTE }],
  upgrade: [{ burst: 60, perMs: MINUTE }],
  stun: [{ burst: 50, perMs: 1000 }],
};

export interface ServerOptions {
  /** Default `[::]:443`, which takes IPv4 too; port 0 takes a free one. */
  readonly listen: HostPort;
  /** Where machines reach this server; at least one. Port 0 stands for the port that is listened on. */
  readonly publicNames: readonly [HostPort, ...HostPort[]];
  /** Null for no STUN; 0 takes a free port. */
  readonly stunPort: number | null;
  /** Where STUN listens; `::` is all addresses. Without it, where `listen` is. */
  readonly stunHost?: string;
  /** Whose X-Forwarded-For is believed. */
  readonly trustedProxies?: readonly Cidr[];
  /** How much each machine may have relayed; without it, as much as it likes. */
  readonly relayQuota?: Quota | null;
  readonly limits?: Partial<Limits>;
  readonly version: string;
}

/** Bodies of requests; the largest that is legal is a tenth of it. */
export const MOST_BODY_BYTES = 65_536;
/** From the first byte of a request to the last of its body, however slowly they come. */
export const BODY_DEADLINE_MS = 10_000;
