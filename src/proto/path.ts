// What two machines and the server tell each other to find a better path than the WebSocket: candidates, keys and the moment.
import { z } from "zod";
import { formatEndpoint, parseEndpoint } from "../base/ip.ts";

/** `ip:port` in canonical text. */
export const endpointSchema = z
  .string()
  .max(56)
  .refine(
    (text) => {
      const endpoint = parseEndpoint(text);
      return endpoint !== null && formatEndpoint(endpoint) === text;
    },
    { error: "is no endpoint" },
  );

/** Base64url of 32 random bytes: the key of MESSAGE-INTEGRITY-SHA256 (RFC 8489 section 14.6) for one direction. */
const probeKeySchema = z.string().regex(/^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/);

/**
 * Where a machine may be reached: on an interface of its own, as a STUN server saw it, by a mapping that its router made,
 * or by a port that a person forwarded. `fresh`: as a STUN server saw another port of the machine than WireGuard's; to be reached
 * from another port too. `predicted`: by the port that its router gives out next. These two are told only to a machine that has
 * told its `nat`.
 */
export const candidateSchema = z.object({
  kind: z.enum(["host", "reflexive", "mapped", "manual", "fresh", "predicted"]),
  endpoint: endpointSchema,
  /** The server's own STUN responder has just seen the machine there; said by the server only. */
  seen: z.boolean().optional(),
});
export type Candidate = z.infer<typeof candidateSchema>;

export const MOST_CANDIDATES = 16;
export const candidatesSchema = z.array(candidateSchema).max(MOST_CANDIDATES);

/** Ports of one machine that speak at once, so that its peer may meet one of them by chance. */
export const MOST_OPEN_PORTS = 256;

/**
 * What an end says of the router in front of it, as two ports of one server saw it in IPv4, and what it does about it.
 * preserved: the world sees the machine's own port, as also without a router. independent: another port, one for all destinations
 * that were asked. sequential: for each destination another one, the next. random: for each destination another one.
 */
export const natSchema = z.object({
  mapping: z.enum(["preserved", "independent", "sequential", "random"]),
  /** It tries ports at random when the other end's router gives every destination another, and nothing else has helped. */
  guesses: z.boolean(),
  /** So many ports of this machine speak to the other end at the next punch, from where nobody knows: to be guessed. */
  open: z.int().min(0).max(MOST_OPEN_PORTS),
});
export type Nat = z.infer<typeof natSchema>;

/** What a later version may say otherwise is as if it was not said. */
export const toldNatSchema = natSchema.optional().catch(undefined);

/** Keys of one session at one end; the other end has the same two the other way round. */
export const probeSchema = z.object({
  sendKey: probeKeySchema,
  receiveKey: probeKeySchema,
  /** The server's UDP relay for this session; null where it has none. */
  relay: z
    .object({ endpoints: z.array(endpointSchema).min(1).max(4), sendKey: probeKeySchema, receiveKey: probeKeySchema })
    .nullable(),
});
export type Probe = z.infer<typeof probeSchema>;

/** By which STUN requests of a machine are known to the server, and its answers to the machine. */
export const stunCredentialSchema = z.object({ user: z.string().max(64), key: probeKeySchema });

/** Longest that a server may let both ends wait for the moment to start. */
export const MOST_PUNCH_WAIT_MS = 10_000;
