// PCP (RFC 6887): requests of a client for a UDP mapping, and what a router answers.
//
// Request   | version u8 = 2 | opcode u8 | 0 u16 | lifetime u32, seconds | client address 16 |                      24 bytes
// Response  | version u8 = 2 | 0x80 + opcode u8 | 0 u8 | result u8 | lifetime u32 | epoch u32 | 0 12 bytes |         24 bytes
// MAP adds  | nonce 12 | protocol u8 = 17 | 0 u24 | internal port u16 | external port u16 | external address 16 |    36 bytes
//
// Opcodes: ANNOUNCE 0, MAP 1. Addresses of IPv4 are written as ::ffff:a.b.c.d (section 5). Lifetime 0 deletes (section 15.1).
import { ByteReader, ByteWriter, equalBytes } from "../../base/bytes.ts";
import { type Endpoint, type IpAddress, ipBytes, ipFromBytes } from "../../base/ip.ts";

const VERSION = 2;
const ANNOUNCE = 0;
const MAP = 1;
const UDP = 17;
const SUCCESS = 0;
const HEADER_BYTES = 24;
const MAP_BYTES = 60;

export interface PcpMapRequest {
  readonly client: IpAddress;
  /** 12 bytes; whoever knows it may renew and delete the mapping. */
  readonly nonce: Uint8Array;
  readonly internalPort: number;
  /** What is asked for, or what was given before; a router may give something else. */
  readonly suggested: Endpoint | null;
  /** 0 deletes. */
  readonly lifetimeS: number;
}

export interface PcpMapped {
  /** 0 when the router did it (section 7.4). */
  readonly result: number;
  readonly external: Endpoint;
  readonly lifetimeS: number;
}

/** Asks for nothing but an answer (section 14.1). */
export function pcpAnnounce(client: IpAddress): Uint8Array {
  return header(ANNOUNCE, { client, lifetimeS: 0 }).finish();
}

export function pcpMap(request: PcpMapRequest): Uint8Array {
  const { nonce, internalPort, suggested } = request;
  return header(MAP, request)
    .bytes(nonce)
    .u8(UDP)
    .bytes(new Uint8Array(3))
    .u16(internalPort)
    .u16(suggested?.port ?? 0)
    .bytes(suggested === null ? NO_ADDRESS : mapped(suggested.address))
    .finish();
}

/** True for any answer in PCP: the router speaks it, even if it says no. One that says "unsupported version" does so in its own. */
export function isPcpAnswer(bytes: Uint8Array): boolean {
  return bytes.length >= HEADER_BYTES && bytes[0] === VERSION && bytes[1] === 0x80 + ANNOUNCE;
}

/** Null for whatever does not answer this request. Options behind the mapping are passed over. */
export function readPcpMapped(bytes: Uint8Array, request: PcpMapRequest): PcpMapped | null {
  if (bytes.length < MAP_BYTES || bytes[0] !== VERSION || bytes[1] !== 0x80 + MAP) return null;
  const reader = new ByteReader(bytes);
  reader.take(3);
  const result = reader.u8();
  const lifetimeS = reader.u32();
  reader.take(16);
  if (!equalBytes(reader.take(12), request.nonce) || reader.u8() !== UDP) return null;
  reader.take(3);
  if (reader.u16() !== request.internalPort) return null;
  const port = reader.u16();
  const address = ipFromBytes(reader.take(16).slice());
  if (address === null) return null;
  return { result, external: { address, port }, lifetimeS: result === SUCCESS ? lifetimeS : 0 };
}

/** "Any address", in the family that is meant (section 11.1). */
const NO_ADDRESS = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0);

function header(opcode: number, request: { readonly client: IpAddress; readonly lifetimeS: number }): ByteWriter {
  return new ByteWriter().u8(VERSION).u8(opcode).u16(0).u32(request.lifetimeS).bytes(mapped(request.client));
}

function mapped(address: IpAddress): Uint8Array {
  const bytes = ipBytes(address);
  if (bytes.length === 16) return bytes;
  const long = NO_ADDRESS.slice();
  long.set(bytes, 12);
  return long;
}
