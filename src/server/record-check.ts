// Whether a record that a machine sent may stand for it: its own signature, what it was given, and a serial that grows.
import { equalBytes, fromBase64 } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { IdentityKey } from "../proto/keys.ts";
import { type MachineRecord, openRecord, type SignedRecord } from "../proto/record.ts";
import type { Machine } from "./directory.ts";

export class RecordRefused extends HiggsError {
  override readonly name = "RecordRefused";
}

/** A node with a handful of home networks; everyone who may see the machine keeps a copy. */
const MOST_ROUTES = 64;

/** SQLite's and most languages' largest whole number; a serial counts up from 1. */
const MOST_SERIAL = 0x7fff_ffff_ffff_ffffn;

function refused(code: string, why: string): RecordRefused {
  return new RecordRefused(`Cannot accept the record: ${why}.`, { code });
}

/**
 * The record, or null when it is the one that is held already.
 * Throws RecordError for what does not open; RecordRefused `record-mismatch`, `record-stale` or `record-expired`.
 */
export function checkRecord(
  machine: Machine,
  signed: SignedRecord,
  options: { readonly network: IdentityKey; readonly nowMs: number },
): MachineRecord | null {
  const record = openRecord(signed);
  if (record.network !== options.network) throw refused("record-mismatch", "it is for another network");
  if (record.identity !== machine.identity) throw refused("record-mismatch", "its identity is not this machine's");
  if (record.name !== machine.name) throw refused("record-mismatch", `its name is not "${machine.name}"`);
  if (record.role !== machine.role) throw refused("record-mismatch", `its role is not "${machine.role}"`);
  const given = [machine.ipv4, machine.ipv6].sort().join();
  if ([...record.addresses].sort().join() !== given)
    throw refused("record-mismatch", "its addresses are not those that were given");
  if (record.routes.length > MOST_ROUTES) throw refused("record-mismatch", `it has more than ${MOST_ROUTES} routes`);
  if (record.role === "client" && record.routes.length > 0)
    throw refused("record-mismatch", "a client offers no routes");
  if (record.serial < 1n || record.serial > MOST_SERIAL) throw refused("record-mismatch", "its serial is out of range");
  // In seconds, as the machines that are shown it count: what they would take is not refused here, nor the other way round.
  if (record.notAfter !== 0n && record.notAfter < BigInt(Math.floor(options.nowMs / 1000)))
    throw refused("record-expired", "its time is over");
  const held = machine.record;
  if (held !== null) {
    const same = equalBytes(
      fromBase64(held.signed.bytes) ?? new Uint8Array(0),
      fromBase64(signed.bytes) ?? new Uint8Array(1),
    );
    if (same) return null;
    if (record.serial <= held.opened.serial) {
      throw refused("record-stale", `its serial ${record.serial} is not above ${held.opened.serial}`);
    }
  }
  return record;
}
