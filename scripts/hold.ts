// Holds sessions through long outages and many kills with the real binaries, counts what was lost, and fails if less was tried than stated.
import { HOME4, page, PAGE4 } from "../test/lab/client-lab.ts";
import { startPinging, transfer } from "../test/lab/cables.ts";
import {
  killAndStart,
  type Kind,
  pingAcross,
  type Running,
  serverOutage,
  startOn,
  VICTIMS,
} from "../test/lab/outages.ts";
import { until } from "../test/lab/harness.ts";

const OUTAGE_MS = 30_000;
/** A relayed tunnel comes back so long after the server, at the latest; a hundredth of the pings is the machine's own noise. */
const BACK_S = 2;
const KILLS = 20;
const RECOVERY_S = 1;
/** WireGuard's keys are made anew after two minutes: twice within this. */
const LONG_MS = 270_000;
const RELAYED_BYTES = 100_000_000;

let ran = 0;
let failed = 0;

function tell(what: string, isGood: boolean, said: string): void {
  ran++;
  if (!isGood) failed++;
  console.log(`${isGood ? "ok    " : "FAILED"} ${what}: ${said}`);
}

async function outage(kind: Kind): Promise<void> {
  const running = await startOn(kind);
  await using _lab = running.lab;
  let awayS = 0;
  const work = async (): Promise<void> => {
    awayS = await serverOutage(running, OUTAGE_MS);
  };
  const { lost, sent, gapS } = await pingAcross(running, work, kind === "wss" ? 0.1 : 0.01);
  const isGood = kind === "wss" ? gapS <= awayS + BACK_S : lost === 0;
  const said = `server away for ${awayS.toFixed(1)} s, ${lost} of ${sent} lost, longest gap ${gapS.toFixed(2)} s`;
  tell(`B1, ${kind}`, isGood, said);
}

/** At random moments, the four victims in turn. */
async function kills(running: Running): Promise<void> {
  for (let n = 0; n < KILLS; n++) {
    const victim = VICTIMS[n % VICTIMS.length] ?? "node";
    await Bun.sleep(Math.random() * 3_000);
    const { gapS } = await pingAcross(running, () => killAndStart(running, victim), 0.1);
    tell(`B2, ${n + 1} of ${KILLS}, ${victim}`, gapS <= RECOVERY_S, `longest gap ${gapS.toFixed(2)} s`);
  }
  tell("B2, at the end", (await page(running.laptop, PAGE4)) === HOME4, "the page comes through the home PC");
}

async function longOutage(running: Running): Promise<void> {
  const pinging = await startPinging(running.laptop);
  await serverOutage(running, LONG_MS);
  const replies = pinging.replies();
  await until(() => pinging.replies() > replies + 20, { what: "replies after the server is back" });
  const { lost, sent } = await pinging.stop();
  tell("B3, direct", lost === 0, `server away for ${LONG_MS / 1000} s, ${lost} of ${sent} lost`);
}

async function relayRestart(): Promise<void> {
  const running = await startOn("wss");
  await using _lab = running.lab;
  const transferring = transfer(running.laptop, RELAYED_BYTES, 8_000_000);
  await Bun.sleep(3_000);
  await serverOutage(running, 500);
  const bytes = await transferring;
  tell("B5, wss", bytes === RELAYED_BYTES, `${bytes} of ${RELAYED_BYTES} bytes came across a restart of the relay`);
}

for (const kind of ["direct", "udp-relay", "wss"] as const) await outage(kind);
await relayRestart();
const running = await startOn("direct");
try {
  await kills(running);
  await longOutage(running);
} finally {
  await running.lab[Symbol.asyncDispose]();
}
const stated = 3 + 1 + KILLS + 1 + 1;
console.log(`${ran} of ${stated} ran, ${failed} failed`);
process.exit(failed === 0 && ran === stated ? 0 : 1);
