// Long lines in the lab: the round trip grows as asked, TCP passes whole and fast, and a host that was switched off has its line again.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { LabTopologyInvalid } from "../../src/lab/errors.ts";
import { startLab } from "../../src/lab/lab.ts";
import { failureOf, startSourceLab } from "./harness.ts";

const MINUTE = 60_000;
const WEB4 = "203.0.113.80";
const HOME_MS = 25;
const CAFE_MS = 40;
const JITTER_MS = 20;

const topology = smallInternet({
  homeLine: { delayMs: HOME_MS },
  cafeLine: { delayMs: CAFE_MS, jitterMs: JITTER_MS },
});

let lab: Lab;
beforeAll(async () => {
  lab = await startSourceLab(topology);
}, MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

/** Milliseconds; fails when one was lost. */
async function roundTrips(host: string, to: string, count = 20): Promise<readonly number[]> {
  const said = await lab.host(host).execOrThrow(["ping", "-n", "-c", String(count), "-i", "0.05", to]);
  const times = [...said.matchAll(/time=([\d.]+) ms/g)].map((match) => Number(match[1]));
  expect(times).toHaveLength(count);
  return times;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

test("without a line a round trip takes next to nothing", async () => {
  expect(Math.min(...(await roundTrips("vps", WEB4)))).toBeLessThan(HOME_MS);
});

test("a line makes the round trip longer by twice its delay, in both families, behind a NAT", async () => {
  await roundTrips("home-pc", WEB4, 1); // neighbours are asked for once
  await roundTrips("home-pc", "2001:db8:80::80", 1);
  for (const to of [WEB4, "2001:db8:80::80"]) {
    const times = await roundTrips("home-pc", to);
    expect(Math.min(...times)).toBeGreaterThanOrEqual(2 * HOME_MS);
    expect(Math.min(...times)).toBeLessThan(2 * HOME_MS + 10); // what comes on top is the machine's other work
  }
});

test("jitter makes round trips unlike, never shorter than asked", async () => {
  await roundTrips("laptop", WEB4, 1);
  const times = await roundTrips("laptop", WEB4, 40);
  expect(Math.min(...times)).toBeGreaterThanOrEqual(2 * CAFE_MS);
  expect(Math.max(...times) - Math.min(...times)).toBeGreaterThan(JITTER_MS / 2);
});

test(
  "TCP passes whole through a line",
  async () => {
    const startedMs = performance.now();
    const bytes = 20_000_000;
    const got = await lab
      .host("home-pc")
      .execOrThrow(["sh", "-c", `curl -sS --max-time 50 http://${WEB4}/bytes?n=${bytes} | wc -c`]);
    expect(Number(got)).toBe(bytes);
    const seconds = (performance.now() - startedMs) / 1000;
    console.log(`20 MB through a line of ${HOME_MS} ms: ${((bytes * 8) / seconds / 1e6).toFixed(0)} Mbit/s`);
  },
  MINUTE,
);

test(
  "a router that was switched off has its line again",
  async () => {
    const router = lab.host("home-router");
    await router.powerOff();
    await router.boot();
    await roundTrips("home-pc", WEB4, 1);
    expect(median(await roundTrips("home-pc", WEB4))).toBeGreaterThanOrEqual(2 * HOME_MS);
  },
  MINUTE,
);

test(
  "a lab with long lines and nobody to run them is refused",
  async () => {
    expect(await failureOf(startLab(topology))).toBeInstanceOf(LabTopologyInvalid);
  },
  MINUTE,
);
