// Asking a role's process to end, while others ask it too.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endIfRunning, endRunning } from "../../../src/cli/end-running.ts";
import { serveLocal } from "../../../src/net/local-api.ts";

const { signal } = new AbortController();
let runDir = "";
beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), "higgs-end-"));
});
afterEach(() => rmSync(runDir, { recursive: true }));

test("bug: a down failed where another had ended the client just before it was asked", async () => {
  const gone = Bun.spawn(["sleep", "60"]);
  const path = join(runDir, "higgs.sock");
  const verbs = {
    hello: () => {
      setImmediate(() => {
        gone.kill();
        void server[Symbol.asyncDispose]();
      });
      return { pid: gone.pid };
    },
  };
  await using server = await serveLocal(verbs, { path, mode: 0o600, groupId: null });
  await endRunning({ role: "client", runDir }, "down", signal);
  await gone.exited;
  expect(gone.signalCode).toBe("SIGTERM");
});

test("endIfRunning() is false where none runs, and endRunning() says so", async () => {
  expect(await endIfRunning({ role: "client", runDir }, "down", signal)).toBe(false);
  expect(await endRunning({ role: "node", runDir }, "down", signal).catch((thrown: unknown) => thrown)).toMatchObject({
    code: "not-running",
  });
});
