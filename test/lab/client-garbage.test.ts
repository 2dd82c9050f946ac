// Garbage on every socket that higgs opens: nothing dies, and the laptop browses on.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { Garbage } from "./client-garbage.program.ts";
import { higgs, higgsOrThrow, pidOf, startClientLab, startNetwork, untilBrowses, wireGuardPids } from "./client-lab.ts";
import { bundleForHosts } from "./bundle.ts";

const MINUTE = 60_000;
const PROGRAM = "/root/garbage.js";
const COUNT = 200;
let lab: Lab;
let laptop: LabHost;
let alive: readonly number[];

beforeAll(async () => {
  lab = await startClientLab();
  await startNetwork(lab);
  laptop = lab.host("laptop");
  await higgsOrThrow(laptop, "client", "up");
  const program = JSON.stringify(join(import.meta.dir, "client-garbage.program.ts"));
  const bundle = await bundleForHosts("client-garbage-entry.ts", `await import(${program});\n`);
  for (const name of ["laptop", "home-pc", "home-nas", "vps", "web"]) await lab.host(name).writeFile(PROGRAM, bundle);
  alive = await living();
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

/** Every process of ours: the same before and after. */
async function living(): Promise<readonly number[]> {
  const [vps, home] = [lab.host("vps"), lab.host("home-pc")];
  return [
    await pidOf(vps, "server"),
    await pidOf(home, "node"),
    await pidOf(laptop, "client"),
    ...(await wireGuardPids(home, "higgsn0")),
    ...(await wireGuardPids(laptop, "higgs0")),
  ];
}

async function portOf(host: LabHost, interfaceName: string): Promise<number> {
  return Number((await host.execOrThrow(["wg", "show", interfaceName, "listen-port"])).trim());
}

async function throwAt(from: string, garbage: Omit<Garbage, "count">): Promise<void> {
  const said = await lab
    .host(from)
    .execOrThrow(["/usr/local/bin/bun", PROGRAM, JSON.stringify({ ...garbage, count: COUNT })]);
  expect(said).toContain(`thrown ${COUNT}`);
  // By the tunnel that was up already, and as the same processes.
  await untilBrowses(laptop);
  expect(await living()).toEqual(alive);
}

async function healthy(): Promise<void> {
  expect((await higgs(laptop, "client", "status")).code).toBe(0);
  expect((await higgs(lab.host("home-pc"), "node", "status")).code).toBe(0);
  expect((await higgs(lab.host("vps"), "server", "status")).code).toBe(0);
}

test(
  "the server's port takes garbage before TLS, in TLS and in HTTP, in both families",
  async () => {
    await throwAt("web", { kind: "tcp", to: "203.0.113.10", port: 443 });
    await throwAt("web", { kind: "tls", to: "203.0.113.10", port: 443 });
    await throwAt("web", { kind: "tls", to: "2001:db8:10::10", port: 443 });
    await healthy();
  },
  MINUTE,
);

test(
  "the server's STUN port takes garbage and what is nearly STUN",
  async () => {
    await throwAt("web", { kind: "udp", to: "203.0.113.10", port: 3478 });
    await healthy();
  },
  MINUTE,
);

test(
  "WireGuard's port and the resolver's of the node take garbage from its LAN",
  async () => {
    await throwAt("home-nas", { kind: "udp", to: "192.168.1.10", port: await portOf(lab.host("home-pc"), "higgsn0") });
    await throwAt("home-nas", { kind: "udp", to: "192.168.1.10", port: 5300 });
    await healthy();
  },
  MINUTE,
);

test(
  "the client's loopback sockets and the local control sockets take garbage",
  async () => {
    await throwAt("laptop", { kind: "udp", to: "127.0.0.1", port: await portOf(laptop, "higgs0") });
    for (const [host, role] of [
      ["laptop", "client"],
      ["home-pc", "node"],
      ["vps", "server"],
    ] as const) {
      for (const name of ["higgs.sock", "admin.sock"])
        await throwAt(host, { kind: "unix", to: `/run/higgs/${role}/${name}`, port: 0 });
    }
    await healthy();
  },
  MINUTE,
);
