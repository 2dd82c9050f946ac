// A machine that joins: what it refuses for the sake of its own networks, and who may ask the role that then runs.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { higgs, higgsOrThrow, invite, startClientLab, startNode, startServer } from "./client-lab.ts";
import type { Lab } from "../../src/lab/lab.ts";

const MINUTE = 60_000;

let lab: Lab;
beforeAll(async () => {
  lab = await startClientLab();
  await startServer(lab);
}, MINUTE);
afterAll(() => lab[Symbol.asyncDispose]());

test(
  "a laptop with a route into the network's range is told both, stays as it was, and joins once the route is gone",
  async () => {
    const laptop = lab.host("laptop");
    const text = await invite(lab, "client");
    const route = ["10.64.0.0/10", "via", "192.168.7.1"];
    await laptop.execOrThrow(["ip", "route", "add", ...route]);
    const refused = await higgs(laptop, "client", "join", text);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/range 10\.\d+\.0\.0\/16 overlaps 10\.64\.0\.0\/10, which this machine reaches by/);
    expect(refused.stderr).toContain("higgs server --network-range 172.29.0.0/16");
    expect((await higgs(laptop, "client", "up")).code).toBe(4);
    await laptop.execOrThrow(["ip", "route", "del", ...route]);
    await higgsOrThrow(laptop, "client", "join", text);
  },
  MINUTE,
);

test(
  "a member of the group higgs may read the node's status, and nobody else",
  async () => {
    const home = lab.host("home-pc");
    const group = await home.execOrThrow(["cat", "/etc/group"]);
    await home.writeFile("/etc/group", `${group.trimEnd()}\nhiggs:x:54321:\n`);
    await startNode(lab, "--join", await invite(lab, "node"));
    const as = (groupId: string) =>
      home.exec(["setpriv", "--reuid=65534", `--regid=${groupId}`, "--clear-groups", "higgs", "node", "status"]);
    expect((await as("54321")).code).toBe(0);
    const stranger = await as("65534");
    expect(stranger.code).toBe(9);
    expect(stranger.stderr).toContain("usermod -aG higgs");
  },
  MINUTE,
);
