// Machines without a working nft, and without iptables: the userspace bridge finds the same paths, moves as well, and what is missing is said.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import {
  higgs,
  HIGGS,
  higgsOrThrow,
  HOME4,
  killNow,
  page,
  PAGE4,
  pidOf,
  startClientLab,
  startNetwork,
  startNode,
  startServer,
} from "./client-lab.ts";
import { cutUdp, mendUdp, startPinging } from "./cables.ts";
import { snapshot, until } from "./harness.ts";
import { hideIptables } from "./mechanisms.ts";

const MINUTE = 60_000;
/** As a kernel without nf_tables has nft say. */
const USELESS = `#!/bin/sh
echo "netlink: Error: cache initialization failed: Protocol not supported" >&2
exit 1
`;

let lab: Lab;
let laptop: LabHost;
let home: LabHost;
let node: LabProcess;
let nft: string;
let before: string;

interface Status {
  readonly path: { readonly kind: string; readonly endpoint: string | null } | null;
  readonly sharing: string | null;
  readonly health: readonly { readonly code: string; readonly text: string; readonly remedy: string | null }[];
}

async function status(): Promise<Status> {
  return JSON.parse((await higgs(laptop, "client", "status", "--json")).stdout) as Status;
}

async function untilPath(kind: string, timeoutMs = 30_000): Promise<void> {
  await until(async () => (await status()).path?.kind === kind, { timeoutMs, everyMs: 100, what: `the path ${kind}` });
}

/** In front of nft, for this host alone. Not a program at all: then there is none on PATH. */
async function takeNft(host: LabHost, how: "useless" | "missing"): Promise<void> {
  await host.writeFile("/root/nft", how === "useless" ? USELESS : "");
  await host.execOrThrow(["chmod", how === "useless" ? "755" : "644", "/root/nft"]);
  await host.execOrThrow(["mount", "--bind", "/root/nft", nft]);
}

async function giveNft(host: LabHost): Promise<void> {
  await host.execOrThrow(["umount", nft]);
}

async function up(...flags: readonly string[]): Promise<void> {
  const { code, stderr } = await higgs(laptop, "client", "up", "--no-firewall", ...flags);
  expect([code, stderr]).toEqual([6, ""]); // connected, but degraded
}

beforeAll(async () => {
  lab = await startClientLab(smallInternet({ homeIpv6: false, cafeIpv6: false }));
  [laptop, home] = [lab.host("laptop"), lab.host("home-pc")];
  nft = (await laptop.execOrThrow(["sh", "-c", "command -v nft"])).trim();
  ({ node } = await startNetwork(lab));
  await higgsOrThrow(laptop, "client", "up", "--paths", "wss");
  await higgsOrThrow(laptop, "client", "down");
  before = await snapshot(laptop, { without: ["etc and run"] });
  await takeNft(laptop, "useless");
  for (const host of [laptop, home]) await hideIptables(host);
}, MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

test(
  "a client without nft is refused; told to do without, it gets its direct path to a node with nft, and says what is missing",
  async () => {
    const refused = await higgs(laptop, "client", "up");
    expect([refused.code, refused.stderr.includes("Protocol not supported")]).toEqual([9, true]);
    await up();
    await untilPath("direct");
    expect(await page(laptop, PAGE4)).toBe(HOME4);
    const { sharing, health, path } = await status();
    expect(sharing).toBe("bridge");
    expect(path?.endpoint).toStartWith(`${HOME4}:`);
    expect(health.map(({ code }) => code)).toEqual(["nft-unusable"]);
    expect(health[0]?.text).toContain("Protocol not supported");
    expect(health[0]?.remedy).toContain("modprobe nf_tables");
    expect((await higgs(laptop, "client", "status")).stdout).toContain("shared by a bridge");
    expect(await higgsOrThrow(laptop, "why", "home-pc")).toContain("(bridge), as nft does no work");
    expect(await higgsOrThrow(laptop, "netcheck")).toMatch(/shared by bridge$/m);
    const locked = await higgs(laptop, "client", "lockdown", "on");
    expect([locked.code, locked.stderr.includes("Protocol not supported")]).toEqual([9, true]);
    const endpoints = await laptop.execOrThrow(["wg", "show", "higgs0", "endpoints"]);
    expect(endpoints).toContain("127.0.0.1:"); // WireGuard knows of nothing but the bridge
  },
  MINUTE,
);

test(
  "the path dies and comes back, under pings, and the server's death costs nothing",
  async () => {
    const router = lab.host("cafe-router");
    const pings = await startPinging(laptop);
    await cutUdp(router);
    await untilPath("wss");
    const replies = pings.replies();
    await until(() => pings.replies() > replies + 5, { what: "replies by the WebSocket" });
    await mendUdp(router);
    await untilPath("direct", 30_000);
    const { gapS, lost } = await pings.stop();
    console.log(`bridge: UDP dropped, longest gap ${gapS.toFixed(2)} s, ${lost} lost`);
    expect(gapS).toBeLessThan(5);

    const vps = lab.host("vps");
    const steady = await startPinging(laptop);
    await killNow(vps, await pidOf(vps, "server"));
    const first = steady.replies();
    await until(() => steady.replies() > first + 20, { what: "twenty replies without a server" });
    expect((await steady.stop()).lost).toBe(0);
    await startServer(lab);
    await until(async () => (await higgs(laptop, "client", "status")).code === 6, {
      timeoutMs: 30_000,
      what: "the server",
    });
    await higgsOrThrow(laptop, "client", "down");
  },
  MINUTE,
);

test(
  "the move from the WebSocket to a direct path loses none of a hundred packets a second, and all is put back",
  async () => {
    const router = lab.host("cafe-router");
    await cutUdp(router);
    await up();
    expect((await status()).path?.kind).toBe("wss");
    const pings = await startPinging(laptop, { everyS: 0.01 });
    await mendUdp(router);
    await untilPath("direct", 30_000);
    const replies = pings.replies();
    await until(() => pings.replies() > replies + 100, { what: "replies by the direct path" });
    expect((await pings.stop()).lost).toBe(0);
    await higgsOrThrow(laptop, "client", "down");
    await up("--paths", "udp-relay,wss");
    await untilPath("udp-relay");
    expect(await page(laptop, PAGE4)).toBe(HOME4);
    await higgsOrThrow(laptop, "client", "down");
    await giveNft(laptop);
    expect(await snapshot(laptop, { without: ["etc and run"] })).toBe(before);
  },
  MINUTE,
);

test(
  "a node without nft and iptables is no exit, and says so; without an exit it is a peer, bridge to bridge",
  async () => {
    await takeNft(laptop, "missing");
    await higgsOrThrow(home, "node", "down");
    await node.exited;
    await takeNft(home, "missing");
    const refused = await higgs(home, "node");
    expect(refused.code).toBe(9);
    expect(refused.stderr).toContain("Cannot offer an exit");
    expect(refused.stderr).toContain('"nft"');
    expect(refused.stderr).toContain("higgs node --no-exit");

    await home.execOrThrow(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
    const open = await higgs(home, "node", "--no-exit");
    expect(open.code).not.toBe(0);
    expect(open.stderr).toContain("without nft or iptables its peers would pass through it");
    await home.execOrThrow(["sysctl", "-q", "-w", "net.ipv4.ip_forward=0"]);

    const peer = await home.spawn([HIGGS, "node", "--no-exit"]);
    await peer.waitForLine(/is running/, { timeoutMs: 20_000 });
    await up("--exit", "none");
    expect(await higgsOrThrow(laptop, "ping", "home-pc", "--until-direct")).toContain("by direct");
    const said = JSON.parse((await higgs(home, "node", "status", "--json")).stdout) as Status;
    expect([said.sharing, said.health.map(({ code }) => code)]).toEqual(["bridge", ["tool-missing"]]);
    const router = lab.host("home-router");
    await cutUdp(router);
    await until(async () => (await higgs(laptop, "ping", "-c", "1", "home-pc")).stdout.includes("by wss"), {
      timeoutMs: 20_000,
      what: "replies by the WebSocket",
    });
    await mendUdp(router);
    await higgsOrThrow(laptop, "ping", "home-pc", "--until-direct", "-c", "150");
    await higgsOrThrow(laptop, "client", "down");
    await higgsOrThrow(home, "node", "down");
    await peer.exited;
    await giveNft(home);
    await giveNft(laptop);
    node = await startNode(lab); // and with nft it is an exit again
  },
  MINUTE,
);
