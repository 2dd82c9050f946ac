// The API's bodies that every machine needs: proof, enrolment, challenge and token, and the form of an error.
import { z } from "zod";
import { fromBase64Url } from "../base/bytes.ts";
import { isMachineName, type MachineName } from "../base/hostname.ts";
import { type Cidr, formatHostPort, type IpAddress, parseCidr, parseHostPort, parseIp } from "../base/ip.ts";
import {
  type IdentityKey,
  type MachineId,
  parseIdentityKey,
  parseSignature,
  parseWireGuardKey,
  type Signature,
  type SpkiHash,
  type WireGuardKey,
} from "./keys.ts";

export const API_BASE = "/api/v1";
/** With the control stream's upgrade: the machine's version, which changes without a new enrolment. */
export const VERSION_HEADER = "x-higgs-version";
export const versionSchema = z.string().max(32);

/** A string that `parse` accepts, typed by what `parse` returns. */
function branded<T extends string>(parse: (text: string) => T | null, what: string, most: number) {
  return z
    .string()
    .max(most)
    .refine((text) => parse(text) !== null, { error: `is no ${what}` })
    .transform((text) => text as T);
}

/** Canonical only: who decodes later never finds text that passed here and is no bytes. */
function isBytes(text: string, length: number): boolean {
  return fromBase64Url(text)?.length === length;
}

function bytesSchema(length: number) {
  return z
    .string()
    .max(Math.ceil((length * 4) / 3))
    .refine((text) => isBytes(text, length), { error: `is not ${length} bytes in base64url` });
}

export const identityKeySchema = branded<IdentityKey>(parseIdentityKey, "Ed25519 public key in base64url", 43);
export const wireGuardKeySchema = branded<WireGuardKey>(parseWireGuardKey, "WireGuard public key", 44);
export const signatureSchema = branded<Signature>(parseSignature, "Ed25519 signature in base64url", 86);
export const spkiHashSchema = branded<SpkiHash>(
  (text) => (isBytes(text, 32) ? (text as SpkiHash) : null),
  "SHA-256 in base64url",
  43,
);
export const machineIdSchema = branded<MachineId>(
  (text) => (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text) ? (text as MachineId) : null),
  "machine id",
  36,
);
export const machineNameSchema = branded<MachineName>((text) => (isMachineName(text) ? text : null), "host name", 63);
export const ipAddressSchema = branded<IpAddress>(
  (text) => (parseIp(text) === text ? (text as IpAddress) : null),
  "IP address",
  45,
);
export const cidrSchema = branded<Cidr>((text) => (parseCidr(text) === text ? (text as Cidr) : null), "IP prefix", 49);
/** Base64url of exactly 32 random bytes. */
const bytes32Schema = bytesSchema(32);
/** Base64url of 16 random bytes: a server process' boot id. */
const bootIdSchema = bytesSchema(16);
export const tagSchema = z.string().regex(/^[a-z0-9][a-z0-9-]{0,31}$/);
export const roleSchema = z.enum(["node", "client"]);
/** `host:port`, as `base/ip.ts` formats it. */
export const hostPortSchema = z.string().max(262).refine(isHostPort, { error: "is no host:port" });

function isHostPort(text: string): boolean {
  const target = parseHostPort(text, 0); // port 0, so that one without a port differs
  return target !== null && formatHostPort(target) === text && target.port !== 0;
}

/** RFC 9457. `code` is stable; `remedy` is a sentence or a command. */
export const problemSchema = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string(),
  remedy: z.string().optional(),
});
export type Problem = z.infer<typeof problemSchema>;

/** POST /proof */
export const proofRequestSchema = z.object({ nonce: bytes32Schema });
export const proofResponseSchema = z.object({
  network: identityKeySchema,
  spki: spkiHashSchema,
  names: z.array(hostPortSchema).max(16),
  signature: signatureSchema,
});
export type ProofResponse = z.infer<typeof proofResponseSchema>;

/** POST /nodes/register and /clients/register */
export const registerRequestSchema = z.object({
  inviteId: z.string().regex(/^[A-Za-z0-9_-]{8}$/),
  secret: bytes32Schema,
  /** The name that the machine would like; the invite's own name wins. */
  name: machineNameSchema,
  /** True when a person chose the name: then a taken name is an error, else the server appends a number. */
  nameIsChosen: z.boolean(),
  identity: identityKeySchema,
  wireGuard: wireGuardKeySchema,
  /** Over `enrolmentMessage`, by `identity`. */
  signature: signatureSchema,
  version: versionSchema,
  platform: z.string().max(32),
});
export type RegisterRequest = z.infer<typeof registerRequestSchema>;

export const registerResponseSchema = z.object({
  id: machineIdSchema,
  name: machineNameSchema,
  role: roleSchema,
  tags: z.array(tagSchema),
  network: identityKeySchema,
  ipv4: ipAddressSchema,
  ipv6: ipAddressSchema,
  range4: cidrSchema,
  range6: cidrSchema,
  servers: z.array(hostPortSchema).max(16),
});
export type RegisterResponse = z.infer<typeof registerResponseSchema>;

/** POST /auth/challenge */
export const challengeRequestSchema = z.object({ machine: machineIdSchema });
export const challengeResponseSchema = z.object({ challenge: bytes32Schema, bootId: bootIdSchema });

/** POST /auth/token; the signature is over `machineProofMessage` */
export const tokenRequestSchema = z.object({
  machine: machineIdSchema,
  challenge: bytes32Schema,
  signature: signatureSchema,
});
export const tokenResponseSchema = z.object({ token: bytes32Schema, expiresInS: z.int().positive() });
