// A role's surroundings end with it, whoever ended it.
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withDeadline } from "../../../src/base/async.ts";
import { SOCKET, startRuntime } from "../../../src/roles/runtime.ts";

test("a role whose start fails once its sockets are open ends, though nobody asked it to", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "higgs-runtime-"));
  try {
    const runtime = await startRuntime({ role: "client", runDir, logLevel: "error", write: () => undefined });
    await runtime.serve({ everyday: {}, admin: {} });
    const { signal } = runtime;
    const end = async (): Promise<void> => await runtime[Symbol.asyncDispose]();
    await withDeadline("end", end, { timeoutMs: 5_000, signal: new AbortController().signal });
    expect(signal.aborted).toBe(true);
  } finally {
    rmSync(runDir, { recursive: true });
  }
});

test("bug: a client that had just started was told of its proxy at a socket that it had not opened yet, and `up` called it not running", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "higgs-runtime-"));
  const isThere = (kind: keyof typeof SOCKET): boolean => existsSync(join(runDir, SOCKET[kind]));
  try {
    await using runtime = await startRuntime({ role: "client", runDir, logLevel: "error", write: () => undefined });
    let isOpen = false;
    const opening = runtime.serve({ everyday: {}, admin: {} }).finally(() => (isOpen = true));
    let early = false;
    while (!isOpen) {
      if (isThere("everyday") && !isThere("admin")) early = true;
      await new Promise((resolve) => setImmediate(resolve));
    }
    await opening;
    expect([isThere("everyday"), isThere("admin"), early]).toEqual([true, true, false]);
  } finally {
    rmSync(runDir, { recursive: true });
  }
});
