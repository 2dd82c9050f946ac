// Client, node and server find each other again by themselves: after kill -9, power cuts, and without DNS.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { VPS_NAME } from "../../src/lab/small-internet.ts";
import {
  higgs,
  HIGGS,
  higgsOrThrow,
  HOME4,
  HOME6,
  inviteIn,
  killNow,
  page,
  PAGE4,
  pidOf,
  startClientLab,
  startNode,
} from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
/** Of a test, on a machine that has other work. */
const LIMIT_MS = 2 * MINUTE;
/** WireGuard itself would begin anew only after this long without an answer (Keepalive-Timeout and Rekey-Timeout). */
const WIREGUARD_S = 15;
let lab: Lab;
let server: LabProcess;
let laptop: LabHost;
let home: LabHost;
let vps: LabHost;

const startServer = async (): Promise<LabProcess> => {
  const started = await vps.spawn([HIGGS, "server", "--public", VPS_NAME]);
  await started.waitForLine(/higgs server is running/);
  return started;
};

beforeAll(async () => {
  lab = await startClientLab();
  [laptop, home, vps] = [lab.host("laptop"), lab.host("home-pc"), lab.host("vps")];
  server = await startServer();
  await startNode(lab, "--join", inviteIn(await server.waitForLine(/higgs node --join/)));
  await higgsOrThrow(laptop, "client", "up", "--join", inviteIn(await server.waitForLine(/higgs client up --join/)));
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

async function machines(): Promise<readonly { name: string; online: boolean }[]> {
  const { code, stdout } = await higgs(vps, "server", "machines", "--json");
  return code === 0 ? (JSON.parse(stdout) as { machines: { name: string; online: boolean }[] }).machines : [];
}

/** As the page sees it, asked again and again; each try ends with the connection's own failure. */
async function browsesAgain(): Promise<void> {
  await until(async () => (await page(laptop, PAGE4)) === HOME4, {
    timeoutMs: 40_000,
    what: "the page through the home PC",
  });
  await until(async () => [HOME4, HOME6].includes(await page(laptop)), { what: "the page by its name" });
}

async function healthy(): Promise<void> {
  await until(async () => (await higgs(laptop, "client", "status")).code === 0, {
    what: "a client that is connected and not degraded",
  });
}

/** The longest time between two replies of a 10 Hz ping to the web page's host, from now to `stop`. */
async function startPinging(): Promise<{ stop(): Promise<number> }> {
  const times: number[] = [];
  const ping = await laptop.spawn(["ping", "-n", "-i", "0.1", "-W", "1", "203.0.113.80"], {
    onLine: (line) => void (line.includes("bytes from") && times.push(performance.now())),
  });
  await ping.waitForLine(/bytes from/);
  return {
    async stop() {
      await ping[Symbol.asyncDispose]();
      return Math.max(0, ...times.slice(1).map((time, i) => time - (times[i] ?? time))) / 1000;
    },
  };
}

test(
  "a server that is killed and started again is found by all, without a new enrolment",
  async () => {
    const before = (await machines()).map(({ name }) => name);
    const pinging = await startPinging();
    await killNow(vps, await pidOf(vps, "server"));
    server = await startServer();
    await until(async () => (await machines()).filter(({ online }) => online).length === 2, {
      what: "both machines online",
    });
    await browsesAgain();
    const gapS = await pinging.stop();
    console.log(`server killed and started: longest gap of a ping ${gapS.toFixed(2)} s`);
    expect(gapS).toBeLessThan(WIREGUARD_S);
    expect((await machines()).map(({ name }) => name)).toEqual(before);
    expect(server.lines.filter((line) => line.includes("--join"))).toEqual([]);
    await healthy();
  },
  LIMIT_MS,
);

test(
  "a node that is killed and started again carries traffic at once, not when WireGuard's timers let it",
  async () => {
    for (let round = 0; round < 3; round++) {
      await killNow(home, await pidOf(home, "node"));
      const startedMs = performance.now();
      await startNode(lab);
      const readyMs = performance.now();
      expect(await page(laptop, PAGE4)).toBe(HOME4);
      const pageMs = performance.now();
      console.log(
        `node started in ${Math.round(readyMs - startedMs)} ms, page ${Math.round(pageMs - readyMs)} ms later`,
      );
      expect(pageMs - startedMs).toBeLessThan(WIREGUARD_S * 1000);
    }
    await browsesAgain();
    await healthy();
  },
  LIMIT_MS,
);

test(
  "a home PC whose power was cut carries traffic again after its boot",
  async () => {
    await home.powerOff();
    await until(async () => (await machines()).some(({ name, online }) => name === "home-pc" && !online), {
      timeoutMs: 50_000,
    });
    await until(async () => (await higgs(laptop, "client", "status")).code === 6, {
      what: "a client that has heard of it",
    });
    await home.boot();
    await startNode(lab);
    const readyMs = performance.now();
    await until(async () => (await page(laptop, PAGE4)) === HOME4, {
      timeoutMs: WIREGUARD_S * 1000,
      what: "the first page",
    });
    console.log(`home PC cut and booted: page ${Math.round(performance.now() - readyMs)} ms after the node's start`);
    await browsesAgain();
    await healthy();
  },
  LIMIT_MS,
);

test(
  "a VPS whose power was cut is found again after its boot, also by a name that nobody can resolve",
  async () => {
    await vps.powerOff();
    await lab.host("dns").powerOff();
    await vps.boot();
    server = await startServer();
    await until(async () => (await machines()).filter(({ online }) => online).length === 2, { timeoutMs: 30_000 });
    await until(async () => (await page(laptop, PAGE4)) === HOME4, {
      timeoutMs: 30_000,
      what: "the page by its address",
    });
    // A machine that starts anew has the server's address only by what it kept.
    await higgsOrThrow(laptop, "client", "down");
    await killNow(home, await pidOf(home, "node"));
    const started = await home.spawn([HIGGS, "node"]);
    await started.waitForLine(/is running/);
    await until(async () => (await machines()).some(({ name, online }) => name === "home-pc" && online));
    await lab.host("dns").boot();
    await killNow(home, await pidOf(home, "node"));
    await startNode(lab);
    await higgsOrThrow(laptop, "client", "up");
    await browsesAgain();
    await healthy();
  },
  LIMIT_MS,
);

test(
  "a laptop whose power was cut connects after its boot and resolves names by the home PC",
  async () => {
    await laptop.powerOff();
    await laptop.boot();
    await higgsOrThrow(laptop, "client", "up");
    expect([HOME4, HOME6]).toContain(await page(laptop));
    await healthy();
  },
  LIMIT_MS,
);

test(
  "a laptop whose power was cut kept the tunnel's name servers after its boot for as long as no exit answered",
  async () => {
    await laptop.powerOff();
    await laptop.boot();
    // The hosts of a lab have one kernel, whose boots are all the same.
    const other = 's/"bootId":"[0-9a-f]{8}/"bootId":"00000000/';
    await laptop.execOrThrow(["sed", "-i", "-E", other, "/var/lib/higgs/client/journal.json"]);
    await killNow(home, await pidOf(home, "node"));
    expect(await laptop.readFile("/etc/resolv.conf")).toContain("higgs"); // positive control
    expect((await higgs(laptop, "client", "up", "--timeout", "5s")).code).not.toBe(0);
    expect(await laptop.readFile("/etc/resolv.conf")).not.toContain("higgs");
    await startNode(lab);
    await higgsOrThrow(laptop, "client", "wait");
    await browsesAgain();
    await healthy();
  },
  LIMIT_MS,
);
