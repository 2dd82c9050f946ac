// What a machine knows of its network: who it is there, where the servers are, and what was proven of them.
import { z } from "zod";
import {
  cidrSchema,
  hostPortSchema,
  identityKeySchema,
  ipAddressSchema,
  machineIdSchema,
  machineNameSchema,
  roleSchema,
  spkiHashSchema,
  tagSchema,
} from "../proto/api.ts";
import { SerialQueue } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";
import type { StateDir } from "./state-dir.ts";

const serverSchema = z.object({
  /** `host:port`, as a person or the server itself names it. */
  name: hostPortSchema,
  /** Resolved while DNS was outside the tunnel, so that a reconnect never needs the tunnel. */
  addresses: z.array(ipAddressSchema),
  /** The certificate that the network's identity vouched for last; proven anew at every connection. */
  pin: z.object({ certPem: z.string(), spki: spkiHashSchema, selfSigned: z.boolean() }).nullable(),
});
export type KnownServer = z.infer<typeof serverSchema>;

export const enrolmentSchema = z.object({
  version: z.literal(1),
  network: identityKeySchema,
  id: machineIdSchema,
  name: machineNameSchema,
  role: roleSchema,
  tags: z.array(tagSchema),
  ipv4: ipAddressSchema,
  ipv6: ipAddressSchema,
  range4: cidrSchema,
  range6: cidrSchema,
  servers: z.array(serverSchema).min(1),
  /** The last position in the map's history; a server that goes back behind it is refused. */
  position: z.object({ epoch: z.int(), seq: z.int() }),
});
export type Enrolment = z.infer<typeof enrolmentSchema>;

export class NotEnrolled extends HiggsError {
  override readonly name = "NotEnrolled";
}

/** Throws NotEnrolled `not-enrolled` when the machine has not joined. */
export async function readEnrolment(dir: StateDir, role: "node" | "client"): Promise<Enrolment> {
  const enrolment = await dir.readJson("enrolment.json", enrolmentSchema);
  if (enrolment !== null) return enrolment;
  throw new NotEnrolled(`Cannot start: this machine has not joined a network as a ${role}.`, {
    code: "not-enrolled",
    remedy: `higgs ${role} join INVITE   (the server prints one with: higgs server invite ${role})`,
  });
}

/** An enrolment in memory whose changes are written through. */
export class EnrolmentStore {
  readonly #dir: StateDir;
  /** The file ends as the value did: a write that began earlier also ends earlier. */
  readonly #writes = new SerialQueue();
  #value: Enrolment;

  constructor(dir: StateDir, value: Enrolment) {
    this.#dir = dir;
    this.#value = value;
  }

  get value(): Enrolment {
    return this.#value;
  }

  /** Writes only what differs. */
  async update(change: Partial<Enrolment>): Promise<void> {
    const next = { ...this.#value, ...change };
    if (JSON.stringify(next) === JSON.stringify(this.#value)) return;
    this.#value = next;
    await this.#writes.run(() => this.#dir.writeJson("enrolment.json", next));
  }
}
