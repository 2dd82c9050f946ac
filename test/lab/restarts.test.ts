// Processes that die under a running session and start again: what of a hundred pings a second is lost, by which path.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { IPV4_ONLY, startPinging, untilPath } from "./cables.ts";
import {
  higgsOrThrow,
  killNow,
  pidOf,
  startClient,
  startClientLab,
  startNetwork,
  startNode,
  startServer,
} from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
/** Two routers that nobody can foresee leave the server's relay; two of Linux's a direct path. */
const KINDS = [
  { kind: "direct", nat: "port-restricted" },
  { kind: "udp-relay", nat: "symmetric-random" },
] as const;

for (const { kind, nat } of KINDS) {
  describe(`on the path ${kind}`, () => {
    let lab: Lab;
    let laptop: LabHost;

    beforeAll(async () => {
      lab = await startClientLab(smallInternet({ ...IPV4_ONLY, homeNat: nat, cafeNat: nat }));
      laptop = lab.host("laptop");
      await startNetwork(lab);
      await startClient(laptop);
      await untilPath(laptop, kind, 30_000);
    }, MINUTE);
    afterAll(async () => {
      await lab?.[Symbol.asyncDispose]();
    }, MINUTE);

    async function lostAcross(name: string, restart: () => Promise<void>): Promise<number> {
      const pinging = await startPinging(laptop, { everyS: 0.01 });
      await until(() => pinging.replies() >= 50, { what: "fifty replies" });
      await restart();
      const replies = pinging.replies();
      await until(() => pinging.replies() >= replies + 120, { what: "replies after the start" });
      const { lost, sent, gapS } = await pinging.stop();
      console.log(`${kind}, ${name}: ${lost} of ${sent} lost, longest gap ${gapS.toFixed(2)} s`);
      return lost;
    }

    test(
      "a node that is killed and starts again loses nothing",
      async () => {
        const home = lab.host("home-pc");
        const lost = await lostAcross("node killed", async () => {
          await killNow(home, await pidOf(home, "node"));
          await Bun.sleep(500);
          await startNode(lab);
        });
        expect(lost).toBe(0);
        await untilPath(laptop, kind, 30_000);
      },
      MINUTE,
    );

    test(
      "a client that is killed and starts again loses nothing",
      async () => {
        const lost = await lostAcross("client killed", async () => {
          await killNow(laptop, await pidOf(laptop, "client"));
          await Bun.sleep(500);
          await startClient(laptop);
        });
        expect(lost).toBe(0);
        await untilPath(laptop, kind, 30_000);
      },
      MINUTE,
    );

    test(
      "a server that is killed and starts again loses nothing, though every session is new",
      async () => {
        const vps = lab.host("vps");
        const lost = await lostAcross("server killed", async () => {
          await killNow(vps, await pidOf(vps, "server"));
          await Bun.sleep(500);
          await startServer(lab);
          await until(async () => (await higgsOrThrow(vps, "server", "sessions", "--json")).includes("laptop"), {
            what: "a session of the new server",
          });
        });
        expect(lost).toBe(0);
        await untilPath(laptop, kind, 30_000);
      },
      MINUTE,
    );
  });
}
