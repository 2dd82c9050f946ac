// Single cables pulled under a running session: how long ten pings a second pause, and whether a transfer completes.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { cutUdp, mendUdp, NAS4, pull, TRANSFER_BYTES, untilPath, withMobile } from "./cables.ts";
import { higgsOrThrow, killNow, pidOf, startClientLab, startNetwork, startServer } from "./client-lab.ts";

const MINUTE = 60_000;
/** Of a test, on a machine that has other work. */
const LIMIT_MS = 2 * MINUTE;
/** Promised are one second and three; the lab's machine may be busy with other things, hence as much again. */
const PAUSE_S = 2;
const MOVED_S = 6;

let lab: Lab;
let laptop: LabHost;

beforeAll(async () => {
  lab = await startClientLab(withMobile());
  laptop = lab.host("laptop");
  await startNetwork(lab);
  await higgsOrThrow(lab.host("home-pc"), "node", "set", `exit-lan=${NAS4}`);
  await higgsOrThrow(laptop, "client", "up");
}, MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

function pulls(name: string, limitS: number, cable: () => Promise<void>, mend?: () => Promise<void>): void {
  test(
    name,
    async () => {
      await untilPath(laptop, "direct", 30_000);
      const { pings, bytes } = await pull(lab, cable);
      console.log(`${name}: longest gap ${pings.gapS.toFixed(2)} s, ${pings.lost} of ${pings.sent} lost`);
      await mend?.();
      expect(bytes).toBe(TRANSFER_BYTES);
      expect(pings.gapS).toBeLessThan(limitS);
    },
    LIMIT_MS,
  );
}

describe("a session pauses for a second at most with", () => {
  for (const router of ["cafe-router", "home-router"]) {
    pulls(
      `UDP dropped at the ${router}`,
      PAUSE_S,
      () => cutUdp(lab.host(router)),
      () => mendUdp(lab.host(router)),
    );
    pulls(`connection tracking flushed at the ${router}`, PAUSE_S, async () => {
      await lab.host(router).execOrThrow(["conntrack", "-F"]);
    });
  }

  pulls(
    "the server killed under a direct pair",
    PAUSE_S,
    async () => {
      const vps = lab.host("vps");
      await killNow(vps, await pidOf(vps, "server"));
    },
    async () => void (await startServer(lab)),
  );
});

describe("a session pauses for three seconds at most when", () => {
  pulls("the home's router gets another address", MOVED_S, async () => {
    await lab
      .host("home-router")
      .execOrThrow([
        "sh",
        "-c",
        "ip addr del 203.0.113.7/24 dev wan; ip addr add 203.0.113.17/24 brd + dev wan; ip route replace default via 203.0.113.1 dev wan",
      ]);
  });

  pulls("the laptop gets another address after a second without any", MOVED_S, async () => {
    await laptop.execOrThrow([
      "sh",
      "-c",
      "ip addr flush dev eth0; sleep 1; ip addr add 192.168.7.33/24 brd + dev eth0; ip route add default via 192.168.7.1 dev eth0",
    ]);
  });

  pulls("the laptop goes from Wi-Fi to a mobile network", MOVED_S, async () => {
    await laptop.execOrThrow([
      "sh",
      "-c",
      "ip link set eth0 down; sleep 1; ip addr add 192.168.99.2/24 brd + dev lte0; ip route add default via 192.168.99.1 dev lte0",
    ]);
  });
});
