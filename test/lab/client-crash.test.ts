// The client is killed at every step of its way up and down; state clean, or the next start, then puts the laptop back to the last byte.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import { journalOf, killEverywhere, plans, ROLES } from "./client-kills.ts";
import { killAt, killNow, pidOf, startClient, startClientLab, startNetwork, startServer } from "./client-lab.ts";
import { snapshot } from "./harness.ts";

const MINUTE = 60_000;
let lab: Lab;
/** How many entries the journal has when the client is all the way up. */
let full: number;

beforeAll(async () => {
  lab = await startClientLab();
  await startNetwork(lab);
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

describe("kill -9 at every step", () => {
  test(
    "of the client's way up and down leaves nothing that state clean does not undo",
    async () => {
      const laptop = lab.host("laptop");
      const client = await startClient(laptop);
      full = await journalOf(laptop, "client");
      client.kill();
      expect(await client.exited).toBe(0);
      expect(full).toBeGreaterThanOrEqual(7);
      await killEverywhere(lab, "client", { full, before: await snapshot(laptop) });
    },
    MINUTE,
  );

  test(
    "of the client's way up and down is taken over by the next start, which connects and undoes everything at its end",
    async () => {
      const laptop = lab.host("laptop");
      // Its limits start anew with it: a machine that connects forty times a minute is held back.
      await killNow(lab.host("vps"), await pidOf(lab.host("vps"), "server"));
      await startServer(lab);
      const before = await snapshot(laptop);
      const steps = plans("client", full).filter((at) => at.kind === "entries" || at.kind === "entries-left");
      let killed = 0;
      for (const at of steps) {
        const journalPath = "/var/lib/higgs/client/journal.json";
        const result = await killAt(laptop, { command: ROLES.client.command, at, journalPath });
        if (result.killed) killed++;
        const client = await startClient(laptop);
        client.kill();
        expect(await client.exited).toBe(0);
        const after = await snapshot(laptop);
        if (after !== before) expect({ at, result, after }).toEqual({ at, result, after: before });
      }
      console.log(`client: ${killed} kills of ${steps.length} tries, each taken over by the next start`);
      expect(killed).toBeGreaterThanOrEqual(steps.length - 2);
    },
    MINUTE,
  );
});
