// The machine record: how a machine introduces itself to the others, signed by itself.
//
//   | version u8 = 1 | network 32 | identity 32 | WireGuard 32 | role u8 | serial u64 | notAfter u64 |
//   | name: length u8, text | addresses: count u8, (family u8 = 4|6, 4 or 16 bytes)* |
//   | routes: count u8, (family u8, length u8, 4 or 16 bytes)* | extensions: (type u8, length u16, value)* |
//
// All numbers big-endian. `serial` grows with every change; `notAfter` is Unix time in seconds, 0 for never.
// Extensions are in ascending order of type; unknown ones are kept and covered by the signature:
//
//   1  endpoint     `host:port` of a UDP port that a person forwarded to the machine's WireGuard, UTF-8
//   2  exit terms   what an exit's owner lets out, opens and keeps (exit-terms.ts)
//
// The encoding is canonical: what decodes re-encodes to the same bytes, or it is refused.
import { ByteReader, ByteWriter, equalBytes, fromBase64, toBase64, utf8, utf8Text } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { isMachineName, type MachineName } from "../base/hostname.ts";
import { type Cidr, cidrParts, familyOf, type IpAddress, ipBytes, ipFromBytes, parseCidr } from "../base/ip.ts";
import {
  type IdentityKey,
  type IdentitySecret,
  identityKeyBytes,
  identityKeyFromBytes,
  identityKeyOf,
  parseIdentityKey,
  parseSignature,
  parseWireGuardKey,
  sign,
  verify,
  type WireGuardKey,
} from "./keys.ts";
import { type Role, roleCode, roleFromCode } from "./role.ts";

export interface MachineRecord {
  readonly network: IdentityKey;
  readonly identity: IdentityKey;
  readonly wireGuard: WireGuardKey;
  readonly role: Role;
  readonly serial: bigint;
  /** Unix time in seconds; 0n for never. */
  readonly notAfter: bigint;
  readonly name: MachineName;
  /** Tunnel addresses, one per family. */
  readonly addresses: readonly IpAddress[];
  /** What the machine offers beyond its own addresses; an exit has `0.0.0.0/0` and, where it can, `::/0`. */
  readonly routes: readonly Cidr[];
  readonly extensions: readonly { readonly type: number; readonly value: Uint8Array }[];
}

/** As it travels: the bytes in base64, and signatures over them. The machine's own comes first; others may follow. */
export interface SignedRecord {
  readonly bytes: string;
  readonly signatures: readonly { readonly key: string; readonly signature: string }[];
}

/** Types of extensions. */
export const EXTENSION = { endpoint: 1, exitTerms: 2 } as const;

export class RecordError extends HiggsError {
  override readonly name = "RecordError";
}

const VERSION = 1;
const MOST_BYTES = 4096;

export function encodeRecord(record: MachineRecord): Uint8Array {
  const name = utf8(record.name);
  const writer = new ByteWriter()
    .u8(VERSION)
    .bytes(identityKeyBytes(record.network))
    .bytes(identityKeyBytes(record.identity))
    .bytes(fromBase64(record.wireGuard) ?? new Uint8Array(32))
    .u8(roleCode(record.role))
    .u64(record.serial)
    .u64(record.notAfter)
    .u8(name.length)
    .bytes(name)
    .u8(record.addresses.length);
  for (const address of record.addresses) writer.u8(familyOf(address)).bytes(ipBytes(address));
  writer.u8(record.routes.length);
  for (const route of record.routes) {
    const { address, length } = cidrParts(route);
    writer.u8(familyOf(address)).u8(length).bytes(ipBytes(address));
  }
  for (const extension of record.extensions) {
    writer.u8(extension.type).u16(extension.value.length).bytes(extension.value);
  }
  return writer.finish();
}

/** Throws RecordError `record-malformed` for whatever is not the canonical encoding of a record. */
export function decodeRecord(bytes: Uint8Array): MachineRecord {
  let record: MachineRecord;
  try {
    record = readRecord(new ByteReader(bytes));
  } catch (thrown) {
    if (thrown instanceof RecordError) throw thrown;
    throw malformed("it ends too early", thrown);
  }
  if (bytes.length > MOST_BYTES || !equalBytes(encodeRecord(record), bytes)) throw malformed("it is not canonical");
  return record;
}

function malformed(why: string, cause?: unknown): RecordError {
  return new RecordError(`Cannot read a machine's record: ${why}.`, { code: "record-malformed", cause });
}

function required<T>(value: T | null, what: string): T {
  if (value === null) throw malformed(`its ${what} is wrong`);
  return value;
}

function readRecord(reader: ByteReader): MachineRecord {
  if (reader.u8() !== VERSION) throw malformed("its version is unknown");
  const network = required(identityKeyFromBytes(reader.take(32)), "network");
  const identity = required(identityKeyFromBytes(reader.take(32)), "identity");
  const wireGuard = required(parseWireGuardKey(toBase64(reader.take(32))), "WireGuard key");
  const role = required(roleFromCode(reader.u8()), "role");
  const serial = reader.u64();
  const notAfter = reader.u64();
  const name = utf8Text(reader.take(reader.u8()));
  if (!isMachineName(name)) throw malformed("its name is no host name");
  const addresses: IpAddress[] = [];
  for (let count = reader.u8(); count > 0; count--) {
    addresses.push(required(ipFromBytes(reader.take(reader.u8() === 4 ? 4 : 16)), "address"));
  }
  const routes: Cidr[] = [];
  for (let count = reader.u8(); count > 0; count--) {
    const family = reader.u8();
    const length = reader.u8();
    const address = required(ipFromBytes(reader.take(family === 4 ? 4 : 16)), "route");
    routes.push(required(parseCidr(`${address}/${length}`), "route"));
  }
  const extensions: { type: number; value: Uint8Array }[] = [];
  while (reader.left > 0) {
    const type = reader.u8();
    const previous = extensions.at(-1);
    if (previous !== undefined && previous.type >= type) throw malformed("its extensions are out of order");
    extensions.push({ type, value: reader.take(reader.u16()).slice() });
  }
  return { network, identity, wireGuard, role, serial, notAfter, name, addresses, routes, extensions };
}

export function signRecord(record: MachineRecord, secret: IdentitySecret): SignedRecord {
  const bytes = encodeRecord(record);
  const signature = sign("higgs machine record v1", bytes, secret);
  return { bytes: toBase64(bytes), signatures: [{ key: identityKeyOf(secret), signature }] };
}

/**
 * The record, once its own machine's signature over it was verified.
 * Throws RecordError `record-malformed` or `record-signature`.
 */
export function openRecord(signed: SignedRecord): MachineRecord {
  const bytes = fromBase64(signed.bytes);
  if (bytes === null) throw malformed("its bytes are no base64");
  const record = decodeRecord(bytes);
  for (const entry of signed.signatures) {
    const key = parseIdentityKey(entry.key);
    const signature = parseSignature(entry.signature);
    if (key !== record.identity || signature === null) continue;
    if (verify("higgs machine record v1", bytes, { key, signature })) return record;
  }
  throw new RecordError(`Cannot trust the record of "${record.name}": its own signature is missing or wrong.`, {
    code: "record-signature",
  });
}
