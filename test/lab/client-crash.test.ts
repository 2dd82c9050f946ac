// The client, its wireguard-go or both are killed at every step of the way up and down; state clean, or the next start, then puts the laptop back to the last byte.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import { untilSettled } from "./cables.ts";
import { addressSeen, ALL_KILLS, journalOf, killAndClean, Killing, momentTries, stepTries } from "./client-kills.ts";
import {
  higgsOrThrow,
  HOME4,
  leaksOf,
  startClient,
  startClientLab,
  startNetwork,
  startProbing,
  wireGuardPort,
} from "./client-lab.ts";
import { failureOf, snapshot, until } from "./harness.ts";
import { steadyState } from "./outages.ts";

const MINUTE = 60_000;
const FIRST = "first";
const SETTLED_EVERY = 4;
const LONG = ALL_KILLS ? 15 * MINUTE : 3 * MINUTE;
let lab: Lab;
/** What the journal has when the client is all the way up. */
let full: readonly string[];
let port: number;

beforeAll(async () => {
  lab = await startClientLab();
  await startNetwork(lab);
  const laptop = lab.host("laptop");
  const client = await startClient(laptop);
  await untilSettled(laptop, "direct"); // a path that is being moved has rules of the moment
  full = await journalOf(laptop, "client");
  port = await wireGuardPort(laptop);
  client.kill();
  expect(await client.exited).toBe(0);
  expect(full.length).toBeGreaterThanOrEqual(7);
}, MINUTE);

afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

describe("kill -9 at every step", () => {
  test(
    "of the client's way up and down leaves nothing that state clean does not undo",
    async () => {
      const laptop = lab.host("laptop");
      expect(["", HOME4]).not.toContain(await addressSeen(laptop, 20)); // positive control: what is open is seen
      const tries = [...stepTries(full), ...momentTries("client", full)];
      await killAndClean(lab, "client", { what: "state clean", tries, before: await snapshot(laptop) });
    },
    LONG,
  );

  test(
    "of the client's way up and down is taken over by the next start, which connects as a first one does and undoes everything at its end",
    async () => {
      const laptop = lab.host("laptop");
      const before = await snapshot(laptop);
      const clean = await upAndDown(FIRST);
      expect(await snapshot(laptop)).toBe(before);
      const killing = new Killing(lab, "client");
      const tries = stepTries(full, ["role", "both"]);
      for (const [i, one] of tries.entries()) {
        await killing.kill(one, async (result) => {
          await killing.started();
          // To settle on a path takes longer than all the rest.
          await upAndDown(ALL_KILLS || i % SETTLED_EVERY === 0 ? clean : null);
          const after = await snapshot(laptop);
          if (after !== before) expect({ one, result, after }).toEqual({ one, result, after: before });
        });
      }
      killing.expectReached("the next start", tries);
    },
    LONG,
  );

  test(
    "of the client's way up and down under the kill switch lets nothing pass",
    async () => {
      const laptop = lab.host("laptop");
      await using sniffer = await lab.host("cafe-router").sniff("lan", await leaksOf(laptop, port));
      const probing = await startProbing(laptop);
      await until(() => sniffer.packets().length >= 10, { what: "probes beside the tunnel" }); // positive control
      await higgsOrThrow(laptop, "client", "lockdown", "on");
      const client = await startClient(laptop);
      const locked = await journalOf(laptop, "client");
      client.kill();
      expect(await client.exited).toBe(0);
      const before = await snapshot(laptop);
      const [rounds, open] = [probing.rounds(), sniffer.packets().length];
      const tries = stepTries(locked).filter((_, i) => ALL_KILLS || i % 2 === 0);
      await killAndClean(lab, "client", { what: "kill switch", tries, before });
      expect(probing.rounds()).toBeGreaterThan(rounds + 20);
      expect(sniffer.packets().slice(open)).toEqual([]);
      await probing.stop();
      await higgsOrThrow(laptop, "client", "lockdown", "off");
    },
    LONG,
  );
});

/** Resolves with what the laptop is like once it is connected and settled as it was, or for the first time; null waits for neither. */
async function upAndDown(as: string | null): Promise<string> {
  const laptop = lab.host("laptop");
  const client = await startClient(laptop);
  let state = "";
  const settled = async (): Promise<boolean> => {
    state = await steadyState(laptop);
    return state === as;
  };
  if (as === FIRST) {
    await untilSettled(laptop, "direct");
    state = await steadyState(laptop);
  } else if (as !== null && !(await eventually(settled))) expect(state).toBe(as);
  client.kill();
  expect(await client.exited).toBe(0);
  return state;
}

async function eventually(condition: () => Promise<boolean>): Promise<boolean> {
  return (await failureOf(until(condition, { everyMs: 100 }))) === undefined;
}
