// This machine's own record: signed when its content changes, with a serial that only grows.
import { z } from "zod";
import { toHex, utf8 } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { Cidr } from "../base/ip.ts";
import { signedRecordSchema } from "../proto/control.ts";
import { encodeExitTerms, type ExitTerms } from "../proto/exit-terms.ts";
import {
  encodeRecord,
  EXTENSION,
  type MachineRecord,
  openRecord,
  type SignedRecord,
  signRecord,
} from "../proto/record.ts";
import type { Enrolment } from "./enrolment.ts";
import type { MachineKeys } from "./identity.ts";
import type { StateDir } from "./state-dir.ts";

export class OwnRecordError extends HiggsError {
  override readonly name = "OwnRecordError";
}

/**
 * A server holds no record but ours, so its serial is ahead of our file only after that was lost or put back from a copy.
 * Whoever could push it to the end of the 64 bits would have made this machine's record final.
 */
const MOST_AHEAD = 1_000_000n;

const recordFileSchema = z.object({ version: z.literal(1), record: signedRecordSchema });

/** What a machine offers to others beyond its own addresses. */
export interface Offer {
  readonly routes: readonly Cidr[];
  /** `host:port` of a UDP port that a person forwarded to this machine's WireGuard; null for none. */
  readonly endpoint: string | null;
  /** Of an exit, as its owner set them. */
  readonly terms?: ExitTerms;
}

/**
 * The record for what the machine is and offers now, on disk before it is shown to anyone.
 * `serverSerial`: the serial that the server holds; ours goes past it where the content differs.
 * Throws OwnRecordError `record-serial` when that is further ahead than it can be.
 */
export async function ownRecord(
  dir: StateDir,
  wanted: {
    readonly enrolment: Enrolment;
    readonly keys: MachineKeys;
    readonly offer: Offer;
    readonly serverSerial: bigint;
  },
): Promise<{ readonly record: MachineRecord; readonly signed: SignedRecord }> {
  const { enrolment, keys } = wanted;
  const stored = await dir.readJson("record.json", recordFileSchema);
  const before = stored === null ? null : openRecord(stored.record);
  const serial = before?.serial ?? 0n;
  if (wanted.serverSerial > serial + MOST_AHEAD) {
    throw new OwnRecordError(
      `Refused what the server says of this machine's own record: its number ${wanted.serverSerial} was never given.`,
      { code: "record-serial", remedy: "The other machines go on with the record that they have; look at the server." },
    );
  }
  const content: Omit<MachineRecord, "serial"> = {
    network: enrolment.network,
    identity: keys.identityKey,
    wireGuard: keys.wireGuardKey,
    role: enrolment.role,
    notAfter: 0n,
    name: enrolment.name,
    addresses: [enrolment.ipv4, enrolment.ipv6],
    routes: wanted.offer.routes,
    extensions: extensionsOf(wanted.offer),
  };
  const unchanged = before !== null && contentKey(before) === contentKey(content);
  if (unchanged && stored !== null && serial >= wanted.serverSerial) return { record: before, signed: stored.record };
  const highest = serial > wanted.serverSerial ? serial : wanted.serverSerial;
  const record: MachineRecord = { ...content, serial: highest + 1n };
  const signed = signRecord(record, keys.identity);
  await dir.writeJson("record.json", { version: 1, record: signed });
  return { record, signed };
}

/** In ascending order of their types. */
function extensionsOf({ endpoint, terms }: Offer): MachineRecord["extensions"] {
  return [
    ...(endpoint === null ? [] : [{ type: EXTENSION.endpoint, value: utf8(endpoint) }]),
    ...(terms === undefined ? [] : [{ type: EXTENSION.exitTerms, value: encodeExitTerms(terms) }]),
  ];
}

function contentKey(record: Omit<MachineRecord, "serial">): string {
  return toHex(encodeRecord({ ...record, serial: 0n }));
}
