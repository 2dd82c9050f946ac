// Enrolment: one transaction consumes the invite and makes the machine, so that fifty at once make one, and a lost answer can be asked for again.
import { and, eq, gt, isNull, like, lt, or, sql } from "drizzle-orm";
import { equalSecrets, fromBase64Url, utf8 } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { MachineName } from "../base/hostname.ts";
import type { RegisterRequest } from "../proto/api.ts";
import { type MachineId, type SpkiHash, verify } from "../proto/keys.ts";
import { enrolmentMessage } from "../proto/proof.ts";
import type { Role } from "../proto/role.ts";
import { recordAudit } from "./audit.ts";
import type { Database, Queries } from "./db/open.ts";
import { enrolments, invites, machines, network } from "./db/schema.ts";
import { type Machine, machineFromRow } from "./directory.ts";
import { secretHash } from "./invites.ts";
import { addressesOf, type Network } from "./network.ts";

export class EnrolmentRefused extends HiggsError {
  override readonly name = "EnrolmentRefused";
}

const ASK_AGAIN = "Ask for a new invite: higgs server invite";

function refused(code: string, why: string, remedy: string = ASK_AGAIN): EnrolmentRefused {
  return new EnrolmentRefused(`Cannot enrol this machine: ${why}.`, { code, remedy });
}

/** Also for a wrong secret: whoever guesses learns nothing about which ids there are. */
function unknownInvite(): EnrolmentRefused {
  return refused("invite-unknown", "the server does not know this invite");
}

/**
 * The machine that this request makes, or that an earlier one of the same identity with the same invite made.
 * Throws EnrolmentRefused `enrolment-proof`, `invite-unknown`, `invite-revoked`, `invite-wrong-role`, `invite-used`, `invite-expired`,
 * `machine-revoked`, `already-enrolled`, `name-taken` or `key-taken`; NetworkError `range-full`.
 */
export async function enrol(
  database: Database,
  request: RegisterRequest,
  options: { readonly role: Role; readonly network: Network; readonly spki: SpkiHash },
): Promise<{ readonly machine: Machine; readonly isNew: boolean }> {
  const message = enrolmentMessage({
    network: options.network.identity,
    spki: options.spki,
    inviteId: request.inviteId,
    role: options.role,
    identity: request.identity,
    wireGuard: request.wireGuard,
  });
  if (!verify("higgs enrolment v1", message, { key: request.identity, signature: request.signature })) {
    throw refused(
      "enrolment-proof",
      "its signature is not its identity's, for this server",
      "Try again; update higgs if it stays so.",
    );
  }
  return database.write(async (queries) => {
    const invite = await queries.select().from(invites).where(eq(invites.id, request.inviteId)).get();
    const offered = utf8(secretHash(fromBase64Url(request.secret) ?? new Uint8Array(0)));
    // An unknown id is compared too, so that it takes as long as a known one.
    if (!equalSecrets(utf8(invite?.secretSha256 ?? "0".repeat(64)), offered) || invite === undefined)
      throw unknownInvite();
    if (invite.role !== options.role)
      throw refused("invite-wrong-role", `the invite is for a ${invite.role}`, `Type: higgs ${invite.role} join …`);
    if (invite.revokedAt !== null) throw refused("invite-revoked", "the invite was taken back");
    const earlier = await earlierMachine(queries, request);
    if (earlier !== null) return { machine: earlier, isNew: false };
    const consumed = await queries
      .update(invites)
      .set({ used: sql`${invites.used} + 1` })
      .where(
        and(
          eq(invites.id, invite.id),
          lt(invites.used, invites.maxUses),
          gt(invites.expiresAt, Date.now()),
          isNull(invites.revokedAt),
        ),
      )
      .returning({ id: invites.id });
    if (consumed.length === 0) {
      throw invite.used >= invite.maxUses
        ? refused("invite-used", "the invite was used already")
        : refused("invite-expired", "the invite has expired");
    }
    return { machine: await insertMachine(queries, request, { ...options, invite }), isNew: true };
  });
}

/** What this identity got from this invite before; null when nothing. */
async function earlierMachine(queries: Queries, request: RegisterRequest): Promise<Machine | null> {
  const known = await queries.select().from(machines).where(eq(machines.identity, request.identity)).get();
  if (known === undefined) return null;
  const leave = `On that machine: higgs ${known.role} leave, then join again.`;
  if (known.revokedAt !== null) throw refused("machine-revoked", "its identity was revoked", leave);
  const enrolment = await queries
    .select()
    .from(enrolments)
    .where(and(eq(enrolments.inviteId, request.inviteId), eq(enrolments.identity, request.identity)))
    .get();
  if (enrolment === undefined)
    throw refused("already-enrolled", `it is enrolled as "${known.name}" with another invite`, leave);
  return machineFromRow(known, null);
}

async function insertMachine(
  queries: Queries,
  request: RegisterRequest,
  options: { readonly role: Role; readonly network: Network; readonly invite: typeof invites.$inferSelect },
): Promise<Machine> {
  const { invite } = options;
  const name = await freeName(queries, invite.name ?? request.name, invite.name !== null || request.nameIsChosen);
  const twin = await queries
    .select({ id: machines.id })
    .from(machines)
    .where(and(eq(machines.wireGuard, request.wireGuard), isNull(machines.revokedAt)))
    .get();
  if (twin !== undefined)
    throw refused(
      "key-taken",
      "another machine has the same WireGuard key",
      "Never copy a machine's keys; make new ones.",
    );
  const [counter] = await queries
    .update(network)
    .set({ nextHost: sql`${network.nextHost} + 1` })
    .where(eq(network.id, 1))
    .returning({ next: network.nextHost });
  const host = (counter?.next ?? 1) - 1;
  const row: typeof machines.$inferSelect = {
    id: crypto.randomUUID() as MachineId,
    name,
    role: options.role,
    tags: invite.tags,
    identity: request.identity,
    wireGuard: request.wireGuard,
    host,
    ...addressesOf(host, options.network),
    version: request.version,
    platform: request.platform,
    createdAt: Date.now(),
    lastSeenAt: null,
    revokedAt: null,
  };
  await queries.insert(machines).values(row);
  await queries.insert(enrolments).values({ inviteId: invite.id, identity: request.identity, machineId: row.id });
  await recordAudit(queries, {
    event: "machine-enrolled",
    machine: row.id,
    detail: { name, role: row.role, invite: invite.id },
  });
  return machineFromRow(row, null);
}

const LONGEST_NAME = 63;

/**
 * `wanted`, or where nobody chose it `wanted-2`, `wanted-3` and so on. The name of a machine that left is taken for ever: others hold on
 * to its identity by that name, and would refuse whoever came next.
 */
async function freeName(queries: Queries, wanted: MachineName, isChosen: boolean): Promise<MachineName> {
  // Room for a hyphen and four digits; a name has no character that LIKE treats otherwise.
  const stem = wanted.slice(0, LONGEST_NAME - 5).replace(/-+$/, "");
  const rows = await queries
    .select({ name: machines.name })
    .from(machines)
    .where(or(eq(machines.name, wanted), like(machines.name, `${stem}-%`)));
  const taken = new Set<string>(rows.map((row) => row.name));
  if (!taken.has(wanted)) return wanted;
  if (isChosen)
    throw refused(
      "name-taken",
      `the name "${wanted}" is, or was, another machine's`,
      "Choose another one with --name.",
    );
  for (let number = 2; ; number++) {
    const candidate = `${stem}-${number}`;
    if (!taken.has(candidate)) return candidate as MachineName;
  }
}
