// NAT-PMP (RFC 6886): requests of a client for a UDP mapping, and what a router answers.
//
// Address   | version u8 = 0 | opcode u8 = 0 |
//   answer  | 0 u8 | 128 u8 | result u16 | epoch u32 | address 4 |                                                    12 bytes
// Map UDP   | 0 u8 | opcode u8 = 1 | 0 u16 | internal port u16 | external port u16 | lifetime u32, seconds |
//   answer  | 0 u8 | 129 u8 | result u16 | epoch u32 | internal port u16 | external port u16 | lifetime u32 |           16 bytes
//
// Lifetime 0 with external port 0 deletes (section 3.4).
import { ByteReader, ByteWriter } from "../../base/bytes.ts";
import { type IpAddress, ipFromBytes } from "../../base/ip.ts";

const VERSION = 0;
const ADDRESS = 0;
const MAP_UDP = 1;
const ANSWER = 128;
const SUCCESS = 0;

export interface NatPmpMapped {
  /** 0 when the router did it (section 3.5). */
  readonly result: number;
  readonly externalPort: number;
  readonly lifetimeS: number;
}

export function natPmpAddress(): Uint8Array {
  return new ByteWriter().u8(VERSION).u8(ADDRESS).finish();
}

export function natPmpMap(request: {
  readonly internalPort: number;
  readonly suggestedPort: number;
  readonly lifetimeS: number;
}): Uint8Array {
  return new ByteWriter()
    .u8(VERSION)
    .u8(MAP_UDP)
    .u16(0)
    .u16(request.internalPort)
    .u16(request.suggestedPort)
    .u32(request.lifetimeS)
    .finish();
}

/** Null for whatever is no answer to the question for the address, or says that there is none. */
export function readNatPmpAddress(bytes: Uint8Array): IpAddress | null {
  if (bytes.length < 12 || bytes[0] !== VERSION || bytes[1] !== ANSWER + ADDRESS) return null;
  const reader = new ByteReader(bytes);
  reader.take(2);
  if (reader.u16() !== SUCCESS) return null;
  reader.take(4);
  return ipFromBytes(reader.take(4).slice());
}

/** Null for whatever does not answer a request for this port. */
export function readNatPmpMapped(bytes: Uint8Array, internalPort: number): NatPmpMapped | null {
  if (bytes.length < 16 || bytes[0] !== VERSION || bytes[1] !== ANSWER + MAP_UDP) return null;
  const reader = new ByteReader(bytes);
  reader.take(2);
  const result = reader.u16();
  reader.take(4);
  if (reader.u16() !== internalPort) return null;
  const externalPort = reader.u16();
  const lifetimeS = reader.u32();
  return { result, externalPort, lifetimeS: result === SUCCESS ? lifetimeS : 0 };
}
