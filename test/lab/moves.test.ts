// Moves between two living paths under a thousand packets a second each way, the old one forty milliseconds slower: nothing is lost.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import type { HostSpec, LineSpec, Topology } from "../../src/lab/topology.ts";
import { IPV4_ONLY, untilPath, WEB4 } from "./cables.ts";
import { HOME4, startClient, startClientLab, startEcho, startNetwork, startStream, VPS4 } from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
/** Past the VPS twice, once in each direction of a round trip: relayed packets take 40 ms more each way. */
const VPS_MS = 20;
const HOME_MS = 40;
const MOVED_MS = 500;
/** At most; a stream is ended once the new path has carried some seconds of it. */
const PACKETS = 60_000;
const BY_THE_NEW_ONE = 2_000;
const PER_S = 1_000;
/** Of the control stream and checks of size, beside the tunnel's own. */
const OTHERS = 40;

type Way = "wss" | "udp-relay" | "direct" | "lan";
const NOT_STUN = "@th,96,32 != 0x2112a442";
/** What of the tunnel passes the laptop, by each way. */
const WAYS: Readonly<Record<Way, string>> = {
  wss: `ip daddr ${VPS4} tcp dport 443 meta length > 160`,
  "udp-relay": `ip daddr ${VPS4} udp dport 40000-40999 ${NOT_STUN}`,
  direct: `ip daddr ${HOME4} meta l4proto udp ${NOT_STUN}`,
  lan: `ip daddr 10.99.0.10 meta l4proto udp ${NOT_STUN}`,
};
const COUNTING = `table inet counting {
${Object.keys(WAYS)
  .map((way) => `  counter ${way} { }\n`)
  .join("")}  chain out {
    type filter hook postrouting priority 300;
${Object.entries(WAYS)
  .map(([way, match]) => `    ${match} counter name "${way}"\n`)
  .join("")}  }
}
`;

/** A LAN of their own that both ends have a card for, without an address yet. */
function withLan(base: Topology): Topology {
  const hosts = base.hosts.map((host): HostSpec => {
    if (host.name !== "laptop" && host.name !== "home-pc") return host;
    return { ...host, interfaces: [...host.interfaces, { name: "lan0", segment: "shared" }] };
  });
  return { segments: [...base.segments, { name: "shared" }], hosts };
}

/** Lets pass of UDP only what matches; all of it for null. */
async function onlyUdp(router: LabHost, match: string | null): Promise<void> {
  const rule = match === null ? "" : `    meta l4proto udp ${match} drop\n`;
  const table = `table ip narrow\ndelete table ip narrow\ntable ip narrow {\n  chain forward {\n    type filter hook forward priority -10;\n${rule}  }\n}\n`;
  await router.writeFile("/root/narrow.nft", table);
  await router.execOrThrow(["nft", "-f", "/root/narrow.nft"]);
}

async function counted(laptop: LabHost, way: Way): Promise<number> {
  const said = await laptop.execOrThrow(["nft", "list", "counter", "inet", "counting", way]);
  return Number(/packets (\d+)/.exec(said)?.[1]);
}

let extra = 100;
/** Another address is another network: both ends look for paths anew. */
async function searchAgain(laptop: LabHost): Promise<void> {
  await laptop.execOrThrow(["ip", "addr", "add", `192.168.7.${++extra}/32`, "dev", "eth0"]);
}

async function move(scene: Scene, ways: { from: Way; to: Way }, open: () => Promise<void>): Promise<void> {
  const { laptop } = scene;
  const { from, to } = ways;
  const [before, target] = [await counted(laptop, from), await counted(laptop, to)];
  const stream = await startStream(laptop, { to: WEB4, count: PACKETS, perS: PER_S });
  expect((await counted(laptop, from)) - before).toBeGreaterThan(PER_S / 10); // a frame of the WebSocket has several
  const known = scene.client.lines.length;
  await open();
  await until(() => scene.client.lines.slice(known).some((line) => line.includes(pathLine(to))), {
    what: `a move to ${to}`,
  });
  // Both ends have moved once the old path is quiet.
  let old = await counted(laptop, from);
  const isQuiet = async (): Promise<boolean> => {
    await Bun.sleep(MOVED_MS);
    const last = old;
    old = await counted(laptop, from);
    return old - last < OTHERS / 4;
  };
  await until(isQuiet, { what: `the end of ${from}` });
  const fresh = await counted(laptop, to);
  const isNew = async (): Promise<boolean> => (await counted(laptop, to)) - fresh > BY_THE_NEW_ONE;
  await until(isNew, { what: `the stream by ${to}` });
  const { sent, back, late: disordered, perS } = await stream.stop();
  const late = (await counted(laptop, from)) - old;
  console.log(
    `${from} to ${to}: ${sent - back} of ${sent} lost at ${perS} a second each way, ${disordered} out of order, ${late} by the old path since it was quiet`,
  );
  expect(back).toBe(sent);
  expect(late).toBeLessThan(OTHERS);
  expect(fresh).toBeGreaterThan(target + 100);
}

function pathLine(way: Way): string {
  return `"path":"${way === "lan" ? "direct" : way}"`;
}

interface Scene {
  readonly lab: Lab;
  readonly laptop: LabHost;
  client: LabProcess;
}

async function startScene(lines: { vpsLine?: LineSpec; homeLine?: LineSpec }): Promise<Scene> {
  const lab = await startClientLab(withLan(smallInternet({ ...IPV4_ONLY, ...lines })));
  const laptop = lab.host("laptop");
  await laptop.writeFile("/root/counting.nft", COUNTING);
  await laptop.execOrThrow(["nft", "-f", "/root/counting.nft"]);
  await startEcho(lab.host("web"));
  await startNetwork(lab);
  return { lab, laptop, client: await startClient(laptop, "--paths", "wss") };
}

async function restartClient(scene: Scene, ...flags: readonly string[]): Promise<void> {
  scene.client.kill();
  await scene.client.exited;
  scene.client = await startClient(scene.laptop, ...flags);
}

describe("from a WebSocket that is forty milliseconds slower", () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await startScene({ vpsLine: { delayMs: VPS_MS, only: "tcp" } });
  }, MINUTE);
  afterAll(async () => {
    await scene?.lab[Symbol.asyncDispose]();
  }, MINUTE);

  for (const to of ["udp-relay", "direct"] as const) {
    test(
      `to ${to}`,
      async () => {
        const router = scene.lab.host("cafe-router");
        await onlyUdp(router, "udp dport != 53");
        await restartClient(scene, "--paths", `${to},wss`);
        await untilPath(scene.laptop, "wss", 30_000);
        await move(scene, { from: "wss", to }, async () => {
          await onlyUdp(router, null);
          await searchAgain(scene.laptop);
        });
      },
      MINUTE,
    );
  }
});

describe("from a path over UDP that is forty milliseconds slower", () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await startScene({ vpsLine: { delayMs: VPS_MS }, homeLine: { delayMs: HOME_MS } });
  }, MINUTE);
  afterAll(async () => {
    await scene?.lab[Symbol.asyncDispose]();
  }, MINUTE);

  test(
    "from udp-relay to direct",
    async () => {
      const router = scene.lab.host("cafe-router");
      await onlyUdp(router, `ip daddr ${HOME4}`);
      await restartClient(scene);
      await untilPath(scene.laptop, "udp-relay", 30_000);
      await move(scene, { from: "udp-relay", to: "direct" }, async () => {
        await onlyUdp(router, null);
        await searchAgain(scene.laptop);
      });
    },
    MINUTE,
  );

  test(
    "from direct to direct in a LAN",
    async () => {
      await untilPath(scene.laptop, "direct", 30_000);
      await move(scene, { from: "direct", to: "lan" }, async () => {
        await scene.lab.host("home-pc").execOrThrow(["ip", "addr", "add", "10.99.0.10/24", "dev", "lan0"]);
        await scene.laptop.execOrThrow(["ip", "addr", "add", "10.99.0.2/24", "dev", "lan0"]);
      });
    },
    MINUTE,
  );
});
