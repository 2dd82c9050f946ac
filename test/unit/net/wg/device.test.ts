import { expect, test } from "bun:test";
import { takesBothFamilies } from "../../../../src/net/wg/device.ts";

test("takesBothFamilies() doubts only a wireguard-go on PATH that is newer than its pool of addresses", () => {
  const path = (version: string) => takesBothFamilies({ kind: "path", version, path: "/usr/bin/wireguard-go" });
  expect(takesBothFamilies(null)).toBe(true);
  expect(takesBothFamilies({ kind: "kernel" })).toBe(true);
  expect(takesBothFamilies({ kind: "carried", version: "v0.0.0-20260522210424-ecfc5a8d5446", path: "/x" })).toBe(true);
  expect(path("0.0.20220316")).toBe(true);
  expect(path("0.0.20250522")).toBe(false);
  expect(path("v0.0.0-20260522210424-ecfc5a8d5446")).toBe(false);
  expect(path("unknown")).toBe(false);
});
