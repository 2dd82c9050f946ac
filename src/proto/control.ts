// The control stream: JSON text messages over one WebSocket, a full map first and deltas after it.
import { z } from "zod";
import {
  cidrSchema,
  hostPortSchema,
  identityKeySchema,
  ipAddressSchema,
  machineIdSchema,
  machineNameSchema,
  roleSchema,
  tagSchema,
} from "./api.ts";
import { candidatesSchema, MOST_PUNCH_WAIT_MS, probeSchema, stunCredentialSchema, toldNatSchema } from "./path.ts";

/** WebSocket close codes of ours (RFC 6455 section 7.4.2 leaves 4000–4999 to applications). */
/** `changed`: what the machine is called changed; it connects anew and reads the welcome. */
export const CLOSE = { revoked: 4401, replaced: 4409, changed: 4440, tooSlow: 4429, malformed: 4400 } as const;
export const MOST_CONTROL_BYTES = 65_536;

export const signedRecordSchema = z.object({
  bytes: z.string().max(8192),
  signatures: z
    .array(z.object({ key: z.string().max(64), signature: z.string().max(128) }))
    .min(1)
    .max(8)
    .readonly(),
});

/** What a node says of its exit: ready only after rules, forwarding and the way out were verified. */
export const exitStateSchema = z.object({
  ready: z.boolean(),
  ipv6: z.boolean(),
  /** What is missing, as sentences for people; empty when ready. */
  missing: z.array(z.string().max(300)).max(8),
});
export type ExitState = z.infer<typeof exitStateSchema>;

export const peerSchema = z.object({
  id: machineIdSchema,
  tags: z.array(tagSchema),
  online: z.boolean(),
  /** Null for a machine that offers no exit. */
  exit: exitStateSchema.nullable(),
  /** From where the server sees the machine; presence, not proof. */
  publicAddress: ipAddressSchema.nullable(),
  record: signedRecordSchema,
});
export type Peer = z.infer<typeof peerSchema>;

/** One bad entry costs one machine, never the map: it is left out. */
const peersSchema = z.array(z.unknown()).transform((list) =>
  list.flatMap((entry): Peer[] => {
    const peer = peerSchema.safeParse(entry);
    return peer.success ? [peer.data] : [];
  }),
);

const sessionIdSchema = z.int().min(1).max(0xffff_ffff);
/** Counts the gatherings of an end, from 1. */
const roundSchema = z.int().min(1).max(0xffff_ffff);

/** Why none of the server's relays carries a session's packets; a direct path is not affected. */
const withheldSchema = z.object({
  code: z.string().max(64),
  /** A clause for people, without a stop: who has used up what. */
  text: z.string().max(300),
  /** Unix milliseconds: when the relays carry it again by themselves. */
  untilMs: z.int().nonnegative(),
});
export type Withheld = z.infer<typeof withheldSchema>;

/** A session joins two machines of any role. */
export const sessionSchema = z.object({
  id: sessionIdSchema,
  peer: machineIdSchema,
  kind: z.literal("wireguard"),
  /** True at the end that asked for it. */
  initiator: z.boolean(),
  /** Absent from a server that helps to no other path than its WebSocket. */
  probe: probeSchema.optional(),
  /** Absent while the relays carry it. A session that is told again has changed in this alone. */
  withheld: withheldSchema.optional(),
});
export type Session = z.infer<typeof sessionSchema>;

/** An opaque number that only grows over server starts, and a sequence within one; a lower pair is refused. */
const positionSchema = z.object({ epoch: z.int().nonnegative(), seq: z.int().nonnegative() });
export type Position = z.infer<typeof positionSchema>;

export const serverMessageSchema = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("welcome"),
    at: positionSchema,
    version: z.string().max(32),
    self: z.object({
      id: machineIdSchema,
      name: machineNameSchema,
      role: roleSchema,
      tags: z.array(tagSchema),
      ipv4: ipAddressSchema,
      ipv6: ipAddressSchema,
    }),
    network: identityKeySchema,
    range4: cidrSchema,
    range6: cidrSchema,
    /** Serial of the record that the server holds of this machine, as decimal text; "0" for none. */
    recordSerial: z.string().regex(/^\d{1,20}$/),
    observedAddress: ipAddressSchema.nullable(),
    /** Where servers of this network can be reached. */
    servers: z.array(hostPortSchema).max(16),
    /** Paths of relay endpoints on the server that says so. */
    relays: z.array(z.string().max(300)).min(1).max(16),
    stun: z.array(hostPortSchema).max(16),
    stunCredential: stunCredentialSchema.optional(),
    peers: peersSchema,
    sessions: z.array(sessionSchema),
  }),
  z.object({
    type: z.literal("delta"),
    at: positionSchema,
    upsert: peersSchema,
    remove: z.array(machineIdSchema),
  }),
  z.object({ type: z.literal("session"), session: sessionSchema }),
  /** Where the peer may be reached, in its own words; a higher round replaces a lower. */
  z.object({
    type: z.literal("candidates"),
    session: sessionIdSchema,
    round: roundSchema,
    candidates: candidatesSchema,
    nat: toldNatSchema,
  }),
  /** Start the checks of this round in so many milliseconds: at the same instant as the peer. */
  z.object({
    type: z.literal("punch"),
    session: sessionIdSchema,
    round: roundSchema,
    inMs: z.number().min(0).max(MOST_PUNCH_WAIT_MS),
  }),
  z.object({ type: z.literal("session-end"), id: z.int(), reason: z.string().max(100) }),
  z.object({ type: z.literal("connected"), ref: z.int(), session: sessionSchema }),
  z.object({ type: z.literal("refused"), ref: z.int(), code: z.string().max(64), detail: z.string().max(500) }),
]);
export type ServerMessage = z.infer<typeof serverMessageSchema>;
export type Welcome = Extract<ServerMessage, { type: "welcome" }>;

export const machineMessageSchema = z.discriminatedUnion("type", [
  /** Asks for a session with a peer; answered by `connected` or `refused` with the same ref. An existing session is returned. */
  z.object({
    type: z.literal("connect"),
    ref: z.int().nonnegative(),
    peer: machineIdSchema,
    kind: z.literal("wireguard"),
  }),
  z.object({ type: z.literal("disconnect"), id: sessionIdSchema }),
  /** Passed on to the peer; once both ends have sent theirs, both are told when to start. */
  z.object({
    type: z.literal("candidates"),
    session: sessionIdSchema,
    round: roundSchema,
    candidates: candidatesSchema,
    nat: toldNatSchema,
  }),
  /** Asks for a new moment, with the candidates that are known. */
  z.object({ type: z.literal("punch-request"), session: sessionIdSchema }),
  z.object({ type: z.literal("record"), record: signedRecordSchema }),
  /** Presence: kept in memory, passed on as a delta when it changed. */
  z.object({ type: z.literal("presence"), exit: exitStateSchema.nullable() }),
]);
export type MachineMessage = z.infer<typeof machineMessageSchema>;
