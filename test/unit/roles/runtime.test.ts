// A role's surroundings end with it, whoever ended it.
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withDeadline } from "../../../src/base/async.ts";
import { startRuntime } from "../../../src/roles/runtime.ts";

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
