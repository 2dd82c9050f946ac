// Tests of where the carried wireguard-go may lie: nowhere that another user could write to.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CarriedRefused, unpackedCarried } from "../../../../src/net/wg/carried.ts";

const carried = { gzPath: "/nowhere.gz", sha256: "a".repeat(64), version: "v1" };
let dir = "";
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "higgs-carried-"));
});
afterAll(() => rmSync(dir, { recursive: true }));

async function refusal(promise: Promise<unknown>): Promise<string> {
  const thrown = await promise.catch((caught: unknown) => caught);
  expect(thrown).toBeInstanceOf(CarriedRefused);
  return thrown instanceof CarriedRefused ? thrown.message : "";
}

test("unpackedCarried() refuses a folder below one that everybody may write to, and makes nothing in it", async () => {
  const message = await refusal(unpackedCarried(carried, join(dir, "libexec")));
  if (process.getuid?.() === 0) expect(message).toMatch(/its mode is 1777, which lets others write to it/);
  expect(readdirSync(dir)).toEqual([]);
});
