// Holding on to known machines: what a server may tell of them, and what is refused whoever tells it.
import { z } from "zod";
import { type Cidr, cidrContains, hostCidr, type IpAddress } from "../base/ip.ts";
import type { MachineName } from "../base/hostname.ts";
import {
  cidrSchema,
  identityKeySchema,
  ipAddressSchema,
  machineNameSchema,
  roleSchema,
  wireGuardKeySchema,
} from "../proto/api.ts";
import type { IdentityKey, WireGuardKey } from "../proto/keys.ts";
import { encodeRecord, type MachineRecord } from "../proto/record.ts";
import { equalBytes, fromBase64, toBase64 } from "../base/bytes.ts";

/** What is remembered of a machine, by the name under which it was first seen. */
export const trustedMachineSchema = z.object({
  name: machineNameSchema,
  /** Names that it had before a rename: they stay its own, or a server could rename it and put another in its place. */
  formerNames: z.array(machineNameSchema).default([]),
  identity: identityKeySchema,
  wireGuard: wireGuardKeySchema,
  role: roleSchema,
  addresses: z.array(ipAddressSchema),
  routes: z.array(cidrSchema),
  /** Decimal text of a 64-bit number. */
  serial: z.string().regex(/^\d{1,20}$/),
  /** The record's bytes in base64: the same serial with other bytes is refused. */
  bytes: z.string(),
});
export type TrustedMachine = z.infer<typeof trustedMachineSchema>;
export const trustFileSchema = z.object({ version: z.literal(1), machines: z.array(trustedMachineSchema) });

export interface TrustContext {
  readonly network: IdentityKey;
  readonly range4: Cidr;
  readonly range6: Cidr;
  /** This machine's own: nobody else may claim its name, key or addresses. */
  readonly self: {
    readonly identity: IdentityKey;
    readonly wireGuard: WireGuardKey;
    readonly name: MachineName;
    readonly addresses: readonly IpAddress[];
  };
  /** Unix time in seconds. */
  readonly now: bigint;
}

export type Judgement =
  | { readonly kind: "known"; readonly machine: TrustedMachine }
  /** First sight, or a newer record of the same machine: to be remembered. */
  | { readonly kind: "learned"; readonly machine: TrustedMachine; readonly replaces: TrustedMachine | null }
  | { readonly kind: "refused"; readonly code: RefusalCode; readonly text: string; readonly remedy: string | null };

export type RefusalCode =
  | "foreign-network"
  | "expired"
  | "identity-changed"
  | "serial-lowered"
  | "record-forked"
  | "address-foreign"
  | "address-taken"
  | "key-taken"
  | "self-imitated";

/** True for its name and for those that it had before. */
export function hasName(machine: TrustedMachine, name: string): boolean {
  return machine.name === name || machine.formerNames.some((former) => former === name);
}

/** Decides about a record whose own signature was verified. Pure. */
export function judge(record: MachineRecord, known: readonly TrustedMachine[], context: TrustContext): Judgement {
  const refuse = (code: RefusalCode, why: string, remedy: string | null = null): Judgement => ({
    kind: "refused",
    code,
    text: `Refused what the server says of "${record.name}": ${why}.`,
    remedy,
  });
  if (record.network !== context.network) return refuse("foreign-network", "its record is of another network");
  if (record.notAfter !== 0n && record.notAfter < context.now) return refuse("expired", "its record has expired");
  if (record.identity === context.self.identity || record.name === context.self.name) {
    return refuse("self-imitated", "it has this machine's own name or key");
  }
  for (const address of record.addresses) {
    if (!cidrContains(context.range4, address) && !cidrContains(context.range6, address)) {
      return refuse("address-foreign", `its address ${address} is outside the network`);
    }
  }
  const byName = known.find((machine) => machine.identity !== record.identity && hasName(machine, record.name));
  if (byName !== undefined) {
    return refuse(
      "identity-changed",
      "its identity key is not the one that this machine knows",
      `If it was set up anew: higgs trust forget ${record.name}`,
    );
  }
  const owner = known.find(
    (machine) =>
      machine.identity !== record.identity && machine.addresses.some((address) => record.addresses.includes(address)),
  );
  if (owner !== undefined || context.self.addresses.some((address) => record.addresses.includes(address))) {
    return refuse("address-taken", `its tunnel address belongs to "${owner?.name ?? context.self.name}"`);
  }
  const twin = known.find((machine) => machine.identity !== record.identity && machine.wireGuard === record.wireGuard);
  if (twin !== undefined || record.wireGuard === context.self.wireGuard) {
    return refuse("key-taken", `its WireGuard key belongs to "${twin?.name ?? context.self.name}"`);
  }
  const before = known.find((machine) => machine.identity === record.identity) ?? null;
  return weigh(record, before, refuse);
}

function weigh(
  record: MachineRecord,
  before: TrustedMachine | null,
  refuse: (code: RefusalCode, why: string) => Judgement,
): Judgement {
  const bytes = encodeRecord(record);
  if (before !== null) {
    const serial = BigInt(before.serial);
    if (record.serial < serial) return refuse("serial-lowered", "its record is older than one seen before");
    if (record.serial === serial) {
      const same = equalBytes(fromBase64(before.bytes) ?? new Uint8Array(0), bytes);
      return same ? { kind: "known", machine: before } : refuse("record-forked", "two records have the same number");
    }
  }
  const machine: TrustedMachine = {
    name: record.name,
    formerNames: formerNames(record, before),
    identity: record.identity,
    wireGuard: record.wireGuard,
    role: record.role,
    addresses: [...record.addresses],
    routes: [...record.routes],
    serial: record.serial.toString(),
    bytes: toBase64(bytes),
  };
  return { kind: "learned", machine, replaces: before };
}

function formerNames(record: MachineRecord, before: TrustedMachine | null): MachineName[] {
  if (before === null) return [];
  return [...new Set([...before.formerNames, before.name])].filter((name) => name !== record.name);
}

/** The prefixes that a peer's tunnel packets may come from: its own addresses, and its offered routes where it was chosen for them. */
export function allowedPrefixes(
  machine: Pick<TrustedMachine, "addresses" | "routes">,
  chosen: readonly Cidr[],
): Cidr[] {
  return [...machine.addresses.map(hostCidr), ...chosen.filter((route) => machine.routes.includes(route))];
}
