// Direct paths past routers that simultaneous opening does not pass, with the real binaries; `npm run nat-repeat` does the same a hundred times.
import { expect, test } from "bun:test";
import { type Run, runs, type Scenario, SCENARIOS } from "./punch-runs.ts";

const MINUTES = 180_000;
/** What a busy machine slept through is tried again by the next search, which comes within 65 seconds. */
const NEXT_SEARCH_MS = 80_000;
const AT_ONCE_MS = 20_000;

async function all(scenario: Scenario, count: number, triesMs = AT_ONCE_MS): Promise<readonly Run[]> {
  const done: Run[] = [];
  for await (const run of runs(scenario, count, triesMs)) {
    console.log(
      `${run.path}, found ${run.found ?? "at once"}, ${run.probes} probes, ${(run.tookMs / 1000).toFixed(1)} s`,
    );
    done.push(run);
  }
  expect(done.map(({ browses }) => browses)).toEqual(done.map(() => true));
  return done;
}

test(
  "routers that take early packets for their own are passed, by fresh ports where need be",
  async () => {
    const done = await all(SCENARIOS.poisonedAndSkewed, 3, NEXT_SEARCH_MS);
    expect(done.map(({ path }) => path)).toEqual(["direct", "direct", "direct"]);
    expect(done.filter(({ tookMs }) => tookMs > AT_ONCE_MS).length).toBeLessThanOrEqual(1);
  },
  MINUTES,
);

test(
  "a router that gives out ports in a row is met at its next one, although a neighbour takes three",
  async () => {
    const [run] = await all(SCENARIOS.foreseen, 1);
    expect(run).toMatchObject({ path: "direct", found: "predicted" });
    expect(run?.probes).toBeLessThan(20);
  },
  MINUTES,
);

test(
  "a router that gives every destination another port is met by guessing, at a pace that disturbs nobody",
  async () => {
    const [run] = await all(SCENARIOS.guessed, 1);
    expect(run).toMatchObject({ path: "direct", found: "guessed" });
    expect(run?.probes).toBeLessThanOrEqual(2048);
    expect(run?.mostInASecond).toBeLessThanOrEqual(512);
  },
  MINUTES,
);

test(
  "a block of ports of a shared address is found at once",
  async () => {
    const [run] = await all(SCENARIOS.pool, 1);
    expect(run).toMatchObject({ path: "direct", found: "guessed" });
    expect(run?.probes).toBeLessThanOrEqual(256);
  },
  MINUTES,
);

test(
  "--no-port-guessing leaves the relay, and no port is guessed",
  async () => {
    const [run] = await all(SCENARIOS.notGuessed, 1, 10_000);
    expect(run).toMatchObject({ path: "udp-relay", found: null });
    expect(run?.probes).toBeLessThan(20);
  },
  MINUTES,
);
