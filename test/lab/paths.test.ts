// The ladder of paths with the real binaries: up to a direct path, down to the relay when UDP dies, and nothing left behind.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import {
  higgs,
  HIGGS,
  higgsOrThrow,
  HOME4,
  invitesOf,
  killNow,
  page,
  PAGE4,
  pidOf,
  startClient,
  startClientLab,
  startNetwork,
  startNode,
  startServer,
} from "./client-lab.ts";
import { cutUdp, IPV4_ONLY, mendUdp, pathOf, startPinging, untilPath, WEB4 } from "./cables.ts";
import { snapshot, until } from "./harness.ts";

const MINUTE = 60_000;

interface Why {
  readonly path: string;
  readonly causes: readonly string[];
  readonly remedies: readonly string[];
}

async function whyOf(host: LabHost): Promise<Why> {
  return JSON.parse(await higgsOrThrow(host, "why", "home-pc", "--json")) as Why;
}

describe("between two Linux routers", () => {
  let lab: Lab;
  let laptop: LabHost;
  let home: LabHost;
  let vps: LabHost;
  let node: LabProcess;
  let laptopBefore: string;
  let homeBefore: string;

  beforeAll(async () => {
    lab = await startClientLab(smallInternet(IPV4_ONLY));
    [laptop, home, vps] = [lab.host("laptop"), lab.host("home-pc"), lab.host("vps")];
    const invites = await invitesOf(await startServer(lab));
    // What a first time leaves on the disks, by intent: identities, the peer's trust, wireguard-go.
    const first = await startNode(lab, "--join", invites.node);
    await higgsOrThrow(laptop, "client", "up", "--join", invites.client, "--paths", "wss");
    await higgsOrThrow(laptop, "client", "down");
    await higgsOrThrow(home, "node", "down");
    await first.exited;
    homeBefore = await snapshot(home);
    node = await startNode(lab);
    laptopBefore = await snapshot(laptop);
  }, MINUTE);
  afterAll(async () => {
    await lab?.[Symbol.asyncDispose]();
  }, MINUTE);

  test(
    "--paths wss never leaves the WebSocket",
    async () => {
      await using sniffer = await lab.host("cafe-router").sniff("lan", "udp and src host 192.168.7.2");
      await higgsOrThrow(laptop, "client", "up", "--paths", "wss");
      const pinging = await startPinging(laptop);
      await until(() => pinging.replies() >= 20, { what: "twenty replies" });
      await pinging.stop();
      expect(await pathOf(laptop)).toMatchObject({ kind: "wss" });
      expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
      await higgsOrThrow(laptop, "client", "down");
      expect(await snapshot(laptop)).toBe(laptopBefore);
    },
    MINUTE,
  );

  test(
    "the relay carries the first packets, and a direct path those after them",
    async () => {
      await using sniffer = await lab.host("cafe-router").sniff("lan", `udp and dst host ${HOME4}`);
      const framesIn = async (): Promise<number> => {
        const status = JSON.parse(await higgsOrThrow(home, "node", "status", "--json")) as {
          relay: { framesIn: number };
        };
        return status.relay.framesIn;
      };
      const framesBefore = await framesIn();
      const startedMs = performance.now();
      const client = await startClient(laptop);
      await client.waitForLine(/"path":"direct".*"msg":"path changed"/);
      console.log(`direct ${((performance.now() - startedMs) / 1000).toFixed(1)} s after the start of the client`);
      expect(await framesIn()).toBeGreaterThan(framesBefore); // the handshake at least
      expect(await page(laptop, PAGE4)).toBe(HOME4);
      const path = await pathOf(laptop);
      expect(path?.kind).toBe("direct");
      expect(path?.endpoint).toStartWith(`${HOME4}:`);
      await until(() => sniffer.packets().length > 0, { what: "packets from router to router" }); // positive control
      expect(await higgsOrThrow(laptop, "ping", "home-pc", "--until-direct")).toContain("by direct");
      client.kill();
      await client.exited;
      expect(await snapshot(laptop)).toBe(laptopBefore);
    },
    MINUTE,
  );

  for (const name of ["cafe-router", "home-router"]) {
    test(
      `UDP dropped at the ${name} leads to the WebSocket, and back to a direct path by itself`,
      async () => {
        await higgsOrThrow(laptop, "client", "up");
        await untilPath(laptop, "direct", 30_000);
        const router = lab.host(name);
        const pinging = await startPinging(laptop);
        await cutUdp(router);
        await untilPath(laptop, "wss", 30_000);
        const replies = pinging.replies();
        await until(() => pinging.replies() > replies + 5, { what: "replies by the WebSocket" });
        await mendUdp(router);
        await untilPath(laptop, "direct", 30_000);
        const { sent, received, gapS } = await pinging.stop();
        console.log(`UDP dropped at the ${name}: longest gap ${gapS.toFixed(2)} s, ${sent - received} of ${sent} lost`);
        expect(gapS).toBeLessThan(5);
      },
      MINUTE,
    );
  }

  test(
    "the server's death costs a direct pair no packet",
    async () => {
      await untilPath(laptop, "direct", 30_000);
      const pinging = await startPinging(laptop);
      await killNow(vps, await pidOf(vps, "server"));
      const replies = pinging.replies();
      await until(() => pinging.replies() > replies + 30, { what: "thirty replies without a server" });
      expect((await pinging.stop()).lost).toBe(0);
      expect(await pathOf(laptop)).toMatchObject({ kind: "direct" });
      await startServer(lab);
      await until(async () => (await higgs(laptop, "client", "status")).code === 0, {
        timeoutMs: 30_000,
        what: "a client that has its server again",
      });
    },
    MINUTE,
  );

  test(
    "down leaves the laptop as it was",
    async () => {
      await untilPath(laptop, "direct", 30_000);
      await higgsOrThrow(laptop, "client", "down");
      expect(await snapshot(laptop)).toBe(laptopBefore);
    },
    MINUTE,
  );

  test(
    "a revoked client loses the direct path as well, and down leaves the home PC as it was",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await untilPath(laptop, "direct", 30_000);
      const peers = async (): Promise<readonly string[]> =>
        (await home.execOrThrow(["wg", "show", "higgsn0", "peers"])).split("\n").filter(Boolean);
      expect(await peers()).toHaveLength(1);
      const revokedMs = performance.now();
      await higgsOrThrow(vps, "server", "revoke", "laptop");
      await until(async () => (await peers()).length === 0, { what: "a home PC without that peer" });
      console.log(`peer gone ${Math.round(performance.now() - revokedMs)} ms after the revocation`);
      expect((await laptop.exec(["ping", "-n", "-c", "1", "-W", "1", WEB4])).code).not.toBe(0);
      await higgsOrThrow(home, "node", "down");
      await node.exited;
      expect(await snapshot(home)).toBe(homeBefore);
    },
    MINUTE,
  );
});

test(
  "two routers that nobody can foresee leave the relay in the server's kernel, and why says so",
  async () => {
    await using lab = await startClientLab(
      smallInternet({ ...IPV4_ONLY, homeNat: "symmetric-random", cafeNat: "symmetric-random" }),
    );
    const laptop = lab.host("laptop");
    await startNetwork(lab);
    await higgsOrThrow(laptop, "client", "up");
    await untilPath(laptop, "udp-relay", 30_000);
    // The whole of a burst was in vain.
    const tried = /203\.0\.113\.7:\d+ does not answer \(([7-9]|\d\d+) checks\)/;
    const why = await until(async () => {
      const said = await whyOf(laptop);
      return said.causes.some((cause) => tried.test(cause)) ? said : null;
    });
    expect(why.causes.join("\n")).toContain("a port of its own");
    expect(await pathOf(laptop)).toMatchObject({ kind: "udp-relay" });
    expect(await page(laptop, PAGE4)).toBe(HOME4);
    expect(JSON.parse(await higgsOrThrow(lab.host("vps"), "server", "status", "--json"))).toMatchObject({
      relay: { kernel: true },
    });
    const pinged = await laptop.exec([HIGGS, "ping", "-c", "1", "home-pc"]);
    expect(pinged.stdout).toContain("by udp-relay");
    const checked = await higgsOrThrow(laptop, "netcheck");
    expect(checked).toMatch(/^NAT +another port for each destination, at random/m);
    expect(checked).toMatch(/^latency to 203\.0\.113\.10 +\d+\.\d ms$/m);
  },
  MINUTE,
);

test(
  "a café that blocks UDP leaves the WebSocket, and why and netcheck say so",
  async () => {
    await using lab = await startClientLab(smallInternet({ ...IPV4_ONLY, cafeRouter: { blockUdp: true } }));
    const laptop = lab.host("laptop");
    await startNetwork(lab);
    await higgsOrThrow(laptop, "client", "up");
    await until(async () => (await page(laptop, PAGE4)) === HOME4, { what: "the page through the home PC" });
    const why = await until(async () => {
      const said = await whyOf(laptop);
      return said.causes.some((cause) => cause.includes("UDP does not get out")) ? said : null;
    });
    expect(why.path).toBe("wss");
    expect(why.remedies.join("\n")).toContain("Let UDP out");
    expect(await pathOf(laptop)).toMatchObject({ kind: "wss" });
    expect(JSON.parse(await higgsOrThrow(laptop, "netcheck", "--json"))).toMatchObject({ udp: false });
    expect(await higgsOrThrow(laptop, "netcheck")).toMatch(/^UDP +no$/m);
  },
  MINUTE,
);
