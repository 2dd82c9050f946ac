// What is noticed of systemd-resolved's own files.
import { expect, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { watchResolved } from "../../../../src/net/dns/watch-resolved.ts";
import { until } from "../../../lab/harness.ts";

test("watchResolved() tells of a file that is replaced, and nothing after its end", async () => {
  const dir = mkdtempSync(join(tmpdir(), "higgs-resolved-"));
  try {
    let told = 0;
    const service = watchResolved(() => void told++, dir);
    // As resolved does it: a new file takes the old one's name.
    writeFileSync(join(dir, ".#new"), "nameserver 192.0.2.1\n");
    renameSync(join(dir, ".#new"), join(dir, "resolv.conf"));
    await until(() => told > 0);
    await service[Symbol.asyncDispose]();
    await service[Symbol.asyncDispose]();
    const before = told;
    const control = Promise.withResolvers<void>();
    await using _other = watchResolved(control.resolve, dir);
    writeFileSync(join(dir, "resolv.conf"), "");
    await control.promise; // whoever still watches has been told by now
    expect(told).toBe(before);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("watchResolved() watches nothing where resolved does not run", async () => {
  await watchResolved(() => undefined, "/nonexistent/resolve")[Symbol.asyncDispose]();
});
