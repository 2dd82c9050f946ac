// An exit's terms: what its owner lets out, opens and keeps, signed with the node's record so that clients see them before they choose.
//
//   | flags u16: 1 mail goes out, 2 only the listed ports, 4 names are filtered | days u16 that connections are kept on record, 0: none are |
//   | ports: count u8, (protocol u8 = 6 tcp | 17 udp, first u16, last u16)* |
//   | closed: count u8, (family u8 = 4|6, length u8, 4 or 16 bytes)* |
//   | opened: count u8, (who u8 = 0 every client | 1 some, family u8, length u8, 4 or 16 bytes)* |
//
// What follows, and other flags, are a later version's: they are passed over, and the terms are known not to be whole.
import { ByteReader, ByteWriter } from "../base/bytes.ts";
import { type Cidr, cidrParts, familyOf, ipBytes, ipFromBytes, parseCidr } from "../base/ip.ts";

export interface PortRange {
  readonly protocol: "tcp" | "udp";
  readonly first: number;
  readonly last: number;
}

export interface ExitTerms {
  /** Port 25, by which strangers send mail. */
  readonly mail: boolean;
  /** Null for all. */
  readonly ports: readonly PortRange[] | null;
  /** Destinations that the owner closed, beside those that are closed everywhere. */
  readonly closed: readonly Cidr[];
  /** Parts of the owner's own place that clients may reach. */
  readonly opened: readonly { readonly prefix: Cidr; readonly forAll: boolean }[];
  /** Some names do not exist there. */
  readonly filtersNames: boolean;
  /** Time, client, protocol and destination of each connection are kept for so many days; 0: none are. */
  readonly logDays: number;
  /** False when they say more than this version understands. */
  readonly isWhole: boolean;
}

/** As many of each as a record has room for. */
export const MOST_TERMS = { ports: 32, closed: 64, opened: 32, logDays: 90 } as const;

const FLAG = { mail: 1, ports: 2, filtersNames: 4 } as const;
const KNOWN_FLAGS = FLAG.mail | FLAG.ports | FLAG.filtersNames;
const PROTOCOL = { tcp: 6, udp: 17 } as const;

export function encodeExitTerms(terms: ExitTerms): Uint8Array {
  const flags =
    (terms.mail ? FLAG.mail : 0) |
    (terms.ports === null ? 0 : FLAG.ports) |
    (terms.filtersNames ? FLAG.filtersNames : 0);
  const ports = terms.ports ?? [];
  const writer = new ByteWriter().u16(flags).u16(terms.logDays).u8(ports.length);
  for (const { protocol, first, last } of ports) writer.u8(PROTOCOL[protocol]).u16(first).u16(last);
  writer.u8(terms.closed.length);
  for (const prefix of terms.closed) writePrefix(writer, prefix);
  writer.u8(terms.opened.length);
  for (const { prefix, forAll } of terms.opened) writePrefix(writer.u8(forAll ? 0 : 1), prefix);
  return writer.finish();
}

function writePrefix(writer: ByteWriter, prefix: Cidr): void {
  const { address, length } = cidrParts(prefix);
  writer.u8(familyOf(address)).u8(length).bytes(ipBytes(address));
}

/** Null for what is none. */
export function decodeExitTerms(bytes: Uint8Array): ExitTerms | null {
  try {
    return readTerms(new ByteReader(bytes));
  } catch {
    return null; // it ends too early, or a field is out of range
  }
}

function readTerms(reader: ByteReader): ExitTerms {
  const flags = reader.u16();
  const logDays = reader.u16();
  const ports = readList(reader, (): PortRange => {
    const code = reader.u8();
    const protocol = code === PROTOCOL.tcp ? "tcp" : code === PROTOCOL.udp ? "udp" : refuse("protocol");
    return { protocol, first: reader.u16(), last: reader.u16() };
  });
  const closed = readList(reader, () => readPrefix(reader));
  const opened = readList(reader, () => ({ forAll: reader.u8() === 0, prefix: readPrefix(reader) }));
  return {
    mail: (flags & FLAG.mail) !== 0,
    ports: (flags & FLAG.ports) === 0 ? null : ports,
    closed,
    opened,
    filtersNames: (flags & FLAG.filtersNames) !== 0,
    logDays,
    isWhole: reader.left === 0 && (flags & ~KNOWN_FLAGS) === 0,
  };
}

function readList<T>(reader: ByteReader, one: () => T): T[] {
  return Array.from({ length: reader.u8() }, one);
}

function readPrefix(reader: ByteReader): Cidr {
  const family = reader.u8();
  const length = reader.u8();
  const address = ipFromBytes(reader.take(family === 4 ? 4 : family === 6 ? 16 : refuse("family")));
  return parseCidr(`${address}/${length}`) ?? refuse("prefix");
}

function refuse(what: string): never {
  throw new RangeError(`its ${what} is wrong`);
}
