import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { readHeader, readLogHeader } from "../../../src/server/db/file-header.ts";
import { noise } from "../support/noise.ts";
import { check } from "../support/property.ts";

const PAGE = 512;

function page(userVersion: number): Uint8Array {
  const bytes = new Uint8Array(PAGE);
  bytes.set(new TextEncoder().encode("SQLite format 3\0"));
  const view = new DataView(bytes.buffer);
  view.setUint16(16, PAGE);
  view.setUint32(60, userVersion);
  view.setUint32(68, 0x68696767);
  return bytes;
}

/** Frames of (page number, pages after commit or 0, content). */
function log(frames: readonly (readonly [number, number, Uint8Array])[], staleFrom = frames.length): Uint8Array {
  const bytes = new Uint8Array(32 + frames.length * (24 + PAGE));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x377f0682);
  view.setUint32(8, PAGE);
  view.setUint32(16, 0xaaaa);
  view.setUint32(20, 0xbbbb);
  for (const [i, [number, commit, content]] of frames.entries()) {
    const at = 32 + i * (24 + PAGE);
    view.setUint32(at, number);
    view.setUint32(at + 4, commit);
    view.setUint32(at + 8, i < staleFrom ? 0xaaaa : 0x1111);
    view.setUint32(at + 12, 0xbbbb);
    bytes.set(content, at + 24);
  }
  return bytes;
}

const other = new Uint8Array(PAGE);

describe("readHeader()", () => {
  test("reads page size, version and application id of a database, and null of anything else", () => {
    expect(readHeader(page(3))).toEqual({ pageBytes: PAGE, userVersion: 3, applicationId: 0x68696767 });
    const widest = page(3);
    widest.set([0, 1], 16);
    expect(readHeader(widest)?.pageBytes).toBe(65_536);
    expect(readHeader(page(3).subarray(0, 99))).toBeNull();
    expect(readHeader(other)).toBeNull();
  });
});

describe("readLogHeader()", () => {
  test("finds the newest committed first page", () => {
    expect(
      readLogHeader(
        log([
          [1, 2, page(1)],
          [2, 2, other],
          [1, 2, page(7)],
        ]),
      )?.userVersion,
    ).toBe(7);
    expect(
      readLogHeader(
        log([
          [1, 0, page(7)],
          [2, 2, other],
        ]),
      )?.userVersion,
    ).toBe(7);
  });

  test("does not count what was never committed, or is left over from before", () => {
    expect(
      readLogHeader(
        log([
          [1, 2, page(1)],
          [1, 0, page(7)],
        ]),
      )?.userVersion,
    ).toBe(1);
    expect(
      readLogHeader(
        log(
          [
            [1, 2, page(1)],
            [1, 2, page(7)],
          ],
          1,
        ),
      )?.userVersion,
    ).toBe(1);
    expect(readLogHeader(log([[2, 2, other]]))).toBeNull();
    expect(readLogHeader(new Uint8Array(0))).toBeNull();
  });

  test("throws for no bytes at all", () => {
    const sound = log([
      [1, 2, page(1)],
      [1, 2, page(7)],
    ]);
    check(
      fc.property(noise(sound, 2000), (bytes) => {
        readLogHeader(bytes);
        readHeader(bytes);
      }),
    );
  });
});
