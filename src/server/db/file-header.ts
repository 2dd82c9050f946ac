// Which schema a database file has, read from its bytes: so that a file that is not ours, or newer than this program, is never touched.
//
// SQLite's header, at the start of page 1:  | magic 16 | 16: page size u16, 1 for 65 536 | … | 60: user version u32 | 68: application id u32 | … |
// Its log, the file beside it ending in -wal:
//   | magic u32 | format u32 | page size u32 | sequence u32 | salt 8 | checksum 8 |  then frames:
//   | page number u32 | pages after commit u32, 0 if this frame ends no transaction | salt 8 | checksum 8 | page |
//
// All numbers big-endian. Source: sqlite.org, "Database File Format", 1.3 and 4.

export interface FileHeader {
  readonly pageBytes: number;
  readonly applicationId: number;
  readonly userVersion: number;
}

export const HEADER_BYTES = 100;
const WAL_HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const MAGIC = "SQLite format 3\0";

function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at);
}

/** Null for what is no SQLite database. */
export function readHeader(page: Uint8Array): FileHeader | null {
  if (page.length < HEADER_BYTES) return null;
  for (let i = 0; i < MAGIC.length; i++) if (page[i] !== MAGIC.charCodeAt(i)) return null;
  const size = ((page[16] ?? 0) << 8) | (page[17] ?? 0);
  return { pageBytes: size === 1 ? 65_536 : size, userVersion: u32(page, 60), applicationId: u32(page, 68) };
}

/** The newest committed page 1 in a log, as a header; null when the log holds none. */
export function readLogHeader(wal: Uint8Array): FileHeader | null {
  if (wal.length < WAL_HEADER_BYTES) return null;
  const magic = u32(wal, 0);
  if (magic !== 0x377f0682 && magic !== 0x377f0683) return null;
  const pageBytes = u32(wal, 8);
  if (pageBytes < 512 || pageBytes > 65_536) return null;
  let pending: FileHeader | null = null;
  let committed: FileHeader | null = null;
  for (
    let at = WAL_HEADER_BYTES;
    at + FRAME_HEADER_BYTES + pageBytes <= wal.length;
    at += FRAME_HEADER_BYTES + pageBytes
  ) {
    // A frame with another salt is left over from before the log was last reset.
    if (u32(wal, at + 8) !== u32(wal, 16) || u32(wal, at + 12) !== u32(wal, 20)) break;
    if (u32(wal, at) === 1) {
      pending = readHeader(wal.subarray(at + FRAME_HEADER_BYTES, at + FRAME_HEADER_BYTES + HEADER_BYTES)) ?? pending;
    }
    if (u32(wal, at + 4) !== 0) committed = pending ?? committed;
  }
  return committed;
}
