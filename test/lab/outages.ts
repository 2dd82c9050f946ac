// Outages that a session has to live through, for the tests and for the long run of them: processes killed at some moment, and what was lost.
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import type { NatKind } from "../../src/lab/topology.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { IPV4_ONLY, type Pings, startPinging, untilPath } from "./cables.ts";
import {
  killNow,
  pidOf,
  startClient,
  startClientLab,
  startNetwork,
  startNode,
  startServer,
  wireGuardPids,
} from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";

export type Kind = "direct" | "udp-relay" | "wss";
export type Victim = "node" | "client" | "node's WireGuard" | "client's WireGuard";
export const VICTIMS: readonly Victim[] = ["node", "client", "node's WireGuard", "client's WireGuard"];

/** Two routers that nobody can foresee leave the server's relay; two of Linux's a direct path. */
const NATS: Readonly<Record<Kind, NatKind>> = {
  direct: "port-restricted",
  "udp-relay": "symmetric-random",
  wss: "port-restricted",
};

export interface Running {
  readonly lab: Lab;
  readonly laptop: LabHost;
  readonly kind: Kind;
  client: LabProcess;
}

/** Server, node and client, on a path of that kind. */
export async function startOn(kind: Kind): Promise<Running> {
  const nat = NATS[kind];
  const lab = await startClientLab(smallInternet({ ...IPV4_ONLY, homeNat: nat, cafeNat: nat }));
  const laptop = lab.host("laptop");
  await startNetwork(lab);
  const client = await startClient(laptop, ...flagsOf(kind));
  await untilPath(laptop, kind, 30_000);
  return { lab, laptop, kind, client };
}

function flagsOf(kind: Kind): readonly string[] {
  return kind === "wss" ? ["--paths", "wss"] : [];
}

/** What a hundred pings a second lose across it; `then` more replies are waited for. */
export async function pingAcross(running: Running, work: () => Promise<void>, everyS = 0.01): Promise<Pings> {
  const pinging = await startPinging(running.laptop, { everyS });
  await until(() => pinging.replies() >= 1 / everyS, { what: "replies for a second" });
  await work();
  const replies = pinging.replies();
  await until(() => pinging.replies() >= replies + 2 / everyS, { timeoutMs: 40_000, what: "replies after the outage" });
  return await pinging.stop();
}

/** Kills the server, and starts it so much later. Resolves with how long nobody listened, in seconds. */
export async function serverOutage({ lab }: Pick<Running, "lab">, awayMs: number): Promise<number> {
  const vps = lab.host("vps");
  await killNow(vps, await pidOf(vps, "server"));
  const killedAt = performance.now();
  await Bun.sleep(awayMs);
  await startServer(lab);
  return (performance.now() - killedAt) / 1000;
}

/** Kills it now; a process of higgs is started again, wireguard-go by whoever misses it. */
export async function killAndStart(running: Running, victim: Victim): Promise<void> {
  const { lab, laptop } = running;
  const home = lab.host("home-pc");
  switch (victim) {
    case "node":
      await killNow(home, await pidOf(home, "node"));
      await startNode(lab);
      return;
    case "client":
      await killNow(laptop, await pidOf(laptop, "client"));
      running.client = await startClient(laptop, ...flagsOf(running.kind));
      return;
    case "node's WireGuard":
      await killNow(home, ...(await wireGuardPids(home, "higgsn0")));
      return;
    case "client's WireGuard":
      await killNow(laptop, ...(await wireGuardPids(laptop, "higgs0")));
      return;
  }
}

/** What both machines hold, as `steadyState` has it. */
export async function stateOf({ lab, laptop }: Running): Promise<string> {
  return (await Promise.all([laptop, lab.host("home-pc")].map(steadyState))).join("\n");
}

/**
 * What a machine holds, without what every clean start draws anew (numbers of interfaces, ports of discovery's sockets), and without
 * the order of the tables, which changes nothing: what one of them drops is dropped.
 */
export async function steadyState(host: LabHost): Promise<string> {
  const text = await snapshot(host);
  return text
    .replace(/^(== ruleset\n)(.*?)(?=^== )/ms, (_, head: string, rules: string) => head + inOrder(rules))
    .replaceAll(/^\d+: (?=higgs)/gm, "N: ")
    .replaceAll(/(udp dport set|udp sport|udp dport) \d+/g, "$1 N")
    .replaceAll(/^ping .*\n/gm, "")
    .replaceAll(/(\/higgs node .*) --join \S+/g, "$1"); // its first start alone
}

function inOrder(rules: string): string {
  return rules
    .split(/^(?=table )/m)
    .map((table) => table.trim())
    .toSorted()
    .join("\n");
}
