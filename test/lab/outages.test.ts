// A server that is away while its WebSocket carries everything, and a WireGuard that dies under a session: how long traffic pauses.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { transfer } from "./cables.ts";
import { killAndStart, pingAcross, type Running, serverOutage, startOn } from "./outages.ts";

const MINUTE = 60_000;
/** Of a test, on a machine that has other work. */
const LIMIT_MS = 2 * MINUTE;
const TENTH_S = 0.1;

describe("on the WebSocket", () => {
  let running: Running;
  beforeAll(async () => {
    running = await startOn("wss");
  }, MINUTE);
  afterAll(async () => {
    await running?.lab[Symbol.asyncDispose]();
  }, MINUTE);

  test(
    "traffic goes on within two seconds after the server is back, and a transfer across it completes",
    async () => {
      const bytes = 8_000_000;
      const transferring = transfer(running.laptop, bytes, 1_000_000);
      let awayS = 0;
      const { gapS } = await pingAcross(
        running,
        async () => {
          awayS = await serverOutage(running, 2_000);
        },
        TENTH_S,
      );
      console.log(`server away for ${awayS.toFixed(2)} s, longest gap ${gapS.toFixed(2)} s`);
      expect(gapS - awayS).toBeLessThan(4);
      expect(await transferring).toBe(bytes);
    },
    LIMIT_MS,
  );
});

describe("on a direct path", () => {
  let running: Running;
  beforeAll(async () => {
    running = await startOn("direct");
  }, MINUTE);
  afterAll(async () => {
    await running?.lab[Symbol.asyncDispose]();
  }, MINUTE);

  for (const victim of ["client's WireGuard", "node's WireGuard"] as const) {
    test(
      `the ${victim} that is killed is made anew, and traffic goes on`,
      async () => {
        const { gapS, lost } = await pingAcross(running, () => killAndStart(running, victim), TENTH_S);
        console.log(`${victim} killed: longest gap ${gapS.toFixed(2)} s, ${lost} lost`);
        expect(gapS).toBeLessThan(3);
      },
      LIMIT_MS,
    );
  }
});
