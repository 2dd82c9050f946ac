// Fifty machines whose server is killed: all of them are back by themselves; how far apart is printed here, and judged by `npm run hold`.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { higgsOrThrow, startClientLab, startServer } from "./client-lab.ts";
import { HERD_HOST, type Herd, spreadOf, startHerd, untilWelcomed } from "./herd.ts";
import { serverOutage } from "./outages.ts";

const MINUTE = 60_000;
const MACHINES = 50;
/** Long enough that the waits between two dials have grown. */
const AWAY_MS = 6_000;

let lab: Lab;
let herd: Herd;

beforeAll(async () => {
  lab = await startClientLab(smallInternet({ extraHosts: [HERD_HOST] }));
  await startServer(lab);
  herd = await startHerd(lab, MACHINES);
}, 3 * MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

test(
  "fifty machines come back to a server that was killed, each of them once",
  async () => {
    await serverOutage({ lab }, AWAY_MS);
    const back = await untilWelcomed(herd, 2);
    const { spanS, mostInTenth } = spreadOf(back);
    console.log(`${MACHINES} machines back within ${spanS.toFixed(1)} s, at most ${mostInTenth} in a tenth of one`);
    expect(new Set(back.map(({ n }) => n)).size).toBe(MACHINES);
    expect(herd.welcomes.length).toBe(2 * MACHINES); // nobody was turned away again
    expect(herd.said).toEqual([]);
    const status = await higgsOrThrow(lab.host("vps"), "server", "status", "--json");
    expect((JSON.parse(status) as { machines: unknown }).machines).toEqual({ total: MACHINES, online: MACHINES });
  },
  3 * MINUTE,
);
