// Invites: made with a one-time secret that is shown once and stored as a hash.
import { sha256 } from "@noble/hashes/sha2.js";
import { and, desc, eq, gt, isNull } from "drizzle-orm";
import { toBase64Url, toHex } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { isMachineName, type MachineName } from "../base/hostname.ts";
import type { HostPort } from "../base/ip.ts";
import { tagSchema } from "../proto/api.ts";
import type { Invite } from "../proto/invite.ts";
import type { IdentityKey } from "../proto/keys.ts";
import type { Role } from "../proto/role.ts";
import { recordAudit } from "./audit.ts";
import type { Database } from "./db/open.ts";
import { invites, machines } from "./db/schema.ts";

export class InviteRefused extends HiggsError {
  override readonly name = "InviteRefused";
}

export interface InviteRequest {
  readonly role: Role;
  readonly name?: string;
  readonly tags?: readonly string[];
  /** Default 1. */
  readonly uses?: number;
  /** Default one hour. */
  readonly expiresInMs?: number;
}

export const DEFAULT_EXPIRY_MS = 60 * 60_000;
/** One that lies around longer is found by somebody else. */
export const MOST_EXPIRY_MS = 7 * 24 * 60 * 60_000;
export const MOST_USES = 100;
const MOST_TAGS = 16;

export interface MadeInvite {
  readonly invite: Invite;
  readonly expiresAt: number;
  readonly uses: number;
}

function refused(message: string, remedy: string): InviteRefused {
  return new InviteRefused(message, { code: "invite-refused", remedy });
}

function checked(request: InviteRequest): {
  name: MachineName | null;
  tags: readonly string[];
  uses: number;
  expiresInMs: number;
} {
  const uses = request.uses ?? 1;
  const expiresInMs = request.expiresInMs ?? DEFAULT_EXPIRY_MS;
  const name = request.name ?? null;
  const tags = [...new Set(request.tags ?? [])].sort();
  if (!Number.isInteger(uses) || uses < 1 || uses > MOST_USES) {
    throw refused(`Cannot make an invite for ${uses} uses.`, `Name a number from 1 to ${MOST_USES}, with --uses.`);
  }
  if (!Number.isFinite(expiresInMs) || expiresInMs < 1000 || expiresInMs > MOST_EXPIRY_MS) {
    throw refused(
      `Cannot make an invite that lasts ${expiresInMs / 1000} s.`,
      "Name a time from 1s to 7d, with --expires.",
    );
  }
  if (name !== null && !isMachineName(name)) {
    throw refused(`Cannot name a machine "${name}".`, "Use letters a to z, digits and hyphens, up to 63, with --name.");
  }
  if (name !== null && uses > 1) {
    throw refused("Cannot make an invite with one name for several machines.", "Leave --name or --uses out.");
  }
  const badTag = tags.find((tag) => !tagSchema.safeParse(tag).success);
  if (badTag !== undefined || tags.length > MOST_TAGS) {
    throw refused(
      badTag === undefined
        ? `Cannot give a machine ${tags.length} tags.`
        : `Cannot give a machine the tag "${badTag}".`,
      `Use up to ${MOST_TAGS} tags of letters a to z, digits and hyphens, up to 32 each.`,
    );
  }
  return { name, tags, uses, expiresInMs };
}

export function secretHash(secret: Uint8Array): string {
  return toHex(sha256(secret));
}

/** Throws InviteRefused `invite-refused` or `name-taken`. */
export async function makeInvite(
  database: Database,
  request: InviteRequest,
  options: { readonly network: IdentityKey; readonly servers: readonly [HostPort, ...HostPort[]] },
): Promise<MadeInvite> {
  const { name, tags, uses, expiresInMs } = checked(request);
  const id = toBase64Url(crypto.getRandomValues(new Uint8Array(6)));
  const secret = crypto.getRandomValues(new Uint8Array(32));
  const createdAt = Date.now();
  const expiresAt = createdAt + expiresInMs;
  await database.write(async (queries) => {
    if (name !== null) {
      const taken = await queries
        .select({ revokedAt: machines.revokedAt })
        .from(machines)
        .where(eq(machines.name, name))
        .get();
      if (taken !== undefined) {
        const why =
          taken.revokedAt === null ? "there is one" : "there was one, and others hold on to its identity by that name";
        throw new InviteRefused(`Cannot invite a machine named "${name}": ${why}.`, {
          code: "name-taken",
          remedy: "Choose another --name: a name is never given twice.",
        });
      }
    }
    await queries.insert(invites).values({
      id,
      secretSha256: secretHash(secret),
      role: request.role,
      name,
      tags,
      maxUses: uses,
      used: 0,
      expiresAt,
      createdAt,
    });
    await recordAudit(queries, {
      event: "invite-created",
      machine: null,
      detail: { id, role: request.role, name, uses, expiresAt },
    });
  });
  return {
    invite: { servers: options.servers, network: options.network, id, secret, role: request.role, name, tags },
    expiresAt,
    uses,
  };
}

export interface InviteSummary {
  readonly id: string;
  readonly role: Role;
  readonly name: MachineName | null;
  readonly tags: readonly string[];
  readonly used: number;
  readonly maxUses: number;
  readonly expiresAt: number;
}

/** Those that can still be used, newest first. */
export async function openInvites(database: Database): Promise<readonly InviteSummary[]> {
  return database.read((queries) =>
    queries
      .select({
        id: invites.id,
        role: invites.role,
        name: invites.name,
        tags: invites.tags,
        used: invites.used,
        maxUses: invites.maxUses,
        expiresAt: invites.expiresAt,
      })
      .from(invites)
      .where(and(isNull(invites.revokedAt), gt(invites.expiresAt, Date.now()), gt(invites.maxUses, invites.used)))
      .orderBy(desc(invites.createdAt)),
  );
}

/** False when there is no such invite. */
export async function revokeInvite(database: Database, id: string): Promise<boolean> {
  return database.write(async (queries) => {
    const changed = await queries
      .update(invites)
      .set({ revokedAt: Date.now() })
      .where(and(eq(invites.id, id), isNull(invites.revokedAt)))
      .returning({ id: invites.id });
    if (changed.length === 0) return false;
    await recordAudit(queries, { event: "invite-revoked", machine: null, detail: { id } });
    return true;
  });
}
