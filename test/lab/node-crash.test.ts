// The node is killed at every step of its way up and down; state clean then puts the home PC back to the last byte.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { journalOf, killEverywhere } from "./client-kills.ts";
import { startClientLab, startNetwork } from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";

const MINUTE = 60_000;
let lab: Lab;
let node: LabProcess;

beforeAll(async () => {
  lab = await startClientLab();
  ({ node } = await startNetwork(lab));
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

describe("kill -9 at every step", () => {
  test(
    "of the node's way up and down leaves nothing that state clean does not undo",
    async () => {
      const home = lab.host("home-pc");
      const full = await until(() => journalOf(home, "node"));
      node.kill();
      expect(await node.exited).toBe(0);
      await killEverywhere(lab, "node", { full, before: await snapshot(home) });
    },
    MINUTE,
  );
});
