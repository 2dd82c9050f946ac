// The node, its wireguard-go or both are killed at every step of the way up and down; state clean then puts the home PC back to the last byte.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { ALL_KILLS, journalOf, killAndClean, momentTries, stepTries } from "./client-kills.ts";
import { startClientLab, startNetwork } from "./client-lab.ts";
import { snapshot } from "./harness.ts";

const MINUTE = 60_000;
let lab: Lab;
let node: LabProcess;

beforeAll(async () => {
  lab = await startClientLab();
  ({ node } = await startNetwork(lab));
}, MINUTE);

afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

describe("kill -9 at every step", () => {
  test(
    "of the node's way up and down leaves nothing that state clean does not undo",
    async () => {
      const home = lab.host("home-pc");
      const full = await journalOf(home, "node");
      expect(full.length).toBeGreaterThanOrEqual(5);
      node.kill();
      expect(await node.exited).toBe(0);
      const tries = [...stepTries(full), ...momentTries("node", full)];
      await killAndClean(lab, "node", { what: "state clean", tries, before: await snapshot(home) });
    },
    ALL_KILLS ? 15 * MINUTE : 3 * MINUTE,
  );
});
