// Holds sessions through long outages and many kills with the real binaries, counts what was lost, and fails if less was tried than stated.
//
//   npm run hold -- --only B1,B2,B3,B5 --kills 20 --minutes 10
import { parseArgs } from "node:util";
import { smallInternet } from "../src/lab/small-internet.ts";
import { HOME4, page, PAGE4, startClientLab, startServer } from "../test/lab/client-lab.ts";
import { startPinging, transfer } from "../test/lab/cables.ts";
import {
  killAndStart,
  type Kind,
  pingAcross,
  type Running,
  serverOutage,
  startOn,
  stateOf,
  VICTIMS,
} from "../test/lab/outages.ts";
import { until } from "../test/lab/harness.ts";
import { HERD_HOST, spreadOf, startHerd, untilWelcomed } from "../test/lab/herd.ts";

const PARTS = ["B1", "B2", "B3", "B5"] as const;
type Part = (typeof PARTS)[number];

const { values } = parseArgs({
  options: {
    only: { type: "string", default: PARTS.join(",") },
    /** Of each victim. */
    kills: { type: "string", default: "20" },
    /** How long the server is away in B3: WireGuard's keys are made anew every two. */
    minutes: { type: "string", default: "4.5" },
  },
});
const parts = values.only.split(",");
const kills = Number(values.kills);
const longMs = Number(values.minutes) * 60_000;

const OUTAGE_MS = 30_000;
/** A relayed tunnel comes back so long after the server, at the latest; a hundredth of the pings is the machine's own noise. */
const BACK_S = 2;
const RECOVERY_S = 1;
/** What the machines hold is as it was this long after a kill, at the latest: old discovery ports and such are gone by then. */
const SETTLED_MS = 15_000;
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

/** At random moments, the victims in turn; what both machines hold afterwards is what a clean start left. */
async function killAll(running: Running): Promise<void> {
  const clean = await stateOf(running);
  for (let n = 0; n < kills * VICTIMS.length; n++) {
    const victim = VICTIMS[n % VICTIMS.length] ?? "node";
    await Bun.sleep(Math.random() * 3_000);
    const { gapS } = await pingAcross(running, () => killAndStart(running, victim), 0.1);
    let now = "";
    const isSame = await until(async () => (now = await stateOf(running)) === clean, {
      timeoutMs: SETTLED_MS,
      everyMs: 500,
    }).catch(() => false);
    const said = `longest gap ${gapS.toFixed(2)} s, state ${isSame ? "as after a clean start" : "differs"}`;
    tell(`B2, ${Math.floor(n / VICTIMS.length) + 1} of ${kills}, ${victim}`, gapS <= RECOVERY_S && isSame, said);
    if (!isSame) console.log(differing(clean, now));
  }
  tell("B2, at the end", (await page(running.laptop, PAGE4)) === HOME4, "the page comes through the home PC");
}

/** Each line that is there more often, or less often, than it was. */
function differing(was: string, is: string): string {
  const counts = new Map<string, number>();
  for (const line of is.split("\n")) counts.set(line, (counts.get(line) ?? 0) + 1);
  for (const line of was.split("\n")) counts.set(line, (counts.get(line) ?? 0) - 1);
  const changed = [...counts].filter(([, count]) => count !== 0);
  if (changed.length === 0) return "  the same lines in another order";
  return changed.map(([line, count]) => `  ${count > 0 ? "+" : "-"} ${line}`).join("\n");
}

const HERD = 50;
/** Fifty machines that come back within less than this would be one blow to the server. */
const LEAST_SPREAD_S = 2;

async function herdOutage(): Promise<void> {
  await using lab = await startClientLab(smallInternet({ extraHosts: [HERD_HOST] }));
  await startServer(lab);
  const herd = await startHerd(lab, HERD);
  await serverOutage({ lab }, OUTAGE_MS);
  const back = await untilWelcomed(herd, 2);
  const { spanS, mostInTenth } = spreadOf(back);
  const isGood = back.length === HERD && spanS >= LEAST_SPREAD_S && herd.said.length === 0;
  tell(
    "B1, herd",
    isGood,
    `${HERD} machines back, spread over ${spanS.toFixed(1)} s, at most ${mostInTenth} in a tenth`,
  );
}

async function longOutage(running: Running): Promise<void> {
  const pinging = await startPinging(running.laptop);
  await serverOutage(running, longMs);
  const replies = pinging.replies();
  await until(() => pinging.replies() > replies + 20, { what: "replies after the server is back" });
  const { lost, sent } = await pinging.stop();
  tell("B3, direct", lost === 0, `server away for ${longMs / 1000} s, ${lost} of ${sent} lost`);
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

/** What one part is, and how many lines of verdict it owes. */
const WORK: Readonly<Record<Part, { readonly owes: number; readonly run: () => Promise<void> }>> = {
  B1: {
    owes: 4,
    run: async () => {
      for (const kind of ["direct", "udp-relay", "wss"] as const) await outage(kind);
      await herdOutage();
    },
  },
  B2: { owes: kills * VICTIMS.length + 1, run: () => onDirect(killAll) },
  B3: { owes: 1, run: () => onDirect(longOutage) },
  B5: { owes: 1, run: relayRestart },
};

async function onDirect(work: (running: Running) => Promise<void>): Promise<void> {
  const running = await startOn("direct");
  await using _lab = running.lab;
  await work(running);
}

let stated = 0;
for (const part of PARTS.filter((one) => parts.includes(one))) {
  stated += WORK[part].owes;
  await WORK[part].run();
}
console.log(`${ran} of ${stated} ran, ${failed} failed`);
process.exit(failed === 0 && ran === stated && stated > 0 ? 0 : 1);
