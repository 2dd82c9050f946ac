// What the client's tests share: a network of real processes in the lab, the commands that a person types, and kills by pid.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab, LabOptions } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { LAB_CA_PATH } from "../../src/lab/service.ts";
import { DNS_NAME, smallInternet, WEB_NAME } from "../../src/lab/small-internet.ts";
import type { ExecResult } from "../../src/lab/spawn.ts";
import type { Topology } from "../../src/lab/topology.ts";
import { asService } from "./daemon-user.ts";
import { bundleForHosts } from "./bundle.ts";
import { startHiggsLab, until } from "./harness.ts";
import type { Killed, KillPlan } from "./kill-moment.ts";

export const HIGGS = "/usr/local/bin/higgs";
export const PAGE = `http://${WEB_NAME}/`;
export const PAGE4 = "http://203.0.113.80/";
export const PAGE6 = "http://[2001:db8:80::80]/";
/** Whom the web page sees: the home's router or PC, or the café's. */
export const HOME4 = "203.0.113.7";
export const HOME6 = "2001:db8:7:1::10";
export const VPS4 = "203.0.113.10";
export const VPS6 = "2001:db8:10::10";

export const DNS_FLAGS: readonly string[] = ["--dns", `https://${DNS_NAME}/dns-query`, "--dns-ca", LAB_CA_PATH];
const PROGRAM = ["/usr/local/bin/bun", "/usr/local/bin/client-probe.js"] as const;

/** A lab whose hosts have the real binary and the tests' own program, see `client-probe.program.ts`. */
export async function startClientLab(
  topology: Topology = smallInternet(),
  options: Pick<LabOptions, "visible"> = {},
): Promise<Lab> {
  const dir = mkdtempSync(join(tmpdir(), "higgs-client-probe-"));
  try {
    const path = join(dir, "client-probe.js");
    const program = JSON.stringify(join(import.meta.dir, "client-probe.program.ts"));
    await Bun.write(path, await bundleForHosts("client-probe-entry.ts", `await import(${program});\n`));
    return await startHiggsLab(topology, { ...options, programs: { bun: process.execPath, "client-probe.js": path } });
  } finally {
    rmSync(dir, { recursive: true }); // the hosts have it on their disks
  }
}

export interface Invites {
  readonly node: string;
  readonly client: string;
}

/** Resolves when the server runs; the invites only at its first start. */
export async function startServer(lab: Lab): Promise<LabProcess> {
  const server = await lab.host("vps").spawn([HIGGS, "server"]);
  await server.waitForLine(/higgs server is running/);
  return server;
}

export async function invitesOf(server: LabProcess): Promise<Invites> {
  const of = async (pattern: RegExp): Promise<string> => inviteIn(await server.waitForLine(pattern));
  return { node: await of(/higgs node --join/), client: await of(/higgs client up --join/) };
}

/** A new one from the running server. */
export async function invite(lab: Lab, role: "node" | "client", ...flags: readonly string[]): Promise<string> {
  return inviteIn(await lab.host("vps").execOrThrow([HIGGS, "server", "invite", role, ...flags]));
}

export function inviteIn(text: string): string {
  return /higgs:\/\/[^\s']+/.exec(text)?.[0] ?? "";
}

/** Resolves when the exit is offered. */
export async function startNode(lab: Lab, ...flags: readonly string[]): Promise<LabProcess> {
  const node = await lab.host("home-pc").spawn([HIGGS, "node", ...DNS_FLAGS, ...flags]);
  await node.waitForLine(/exit offered/, { timeoutMs: 20_000 });
  return node;
}

/** Server, node and an enrolled laptop that is not connected. */
export async function startNetwork(lab: Lab): Promise<{ server: LabProcess; node: LabProcess }> {
  const server = await startServer(lab);
  const invites = await invitesOf(server);
  const node = await startNode(lab, "--join", invites.node);
  await lab.host("laptop").execOrThrow([HIGGS, "client", "join", invites.client]);
  return { server, node };
}

export function higgs(host: LabHost, ...args: readonly string[]): Promise<ExecResult> {
  return host.exec([HIGGS, ...args], { timeoutMs: 40_000 });
}

/** The client in the foreground, connected. */
export async function startClient(host: LabHost, ...flags: readonly string[]): Promise<LabProcess> {
  const client = await host.spawn([HIGGS, "client", "run", ...flags]);
  await until(async () => (await higgs(host, "client", "wait")).code === 0, { what: "the client's connection" });
  return client;
}

/** Throws with what it said unless it ended with 0. */
export async function higgsOrThrow(host: LabHost, ...args: readonly string[]): Promise<string> {
  return await host.execOrThrow([HIGGS, ...args], { timeoutMs: 40_000 });
}

/** The address that the page sees, or "" when it cannot be had. */
export async function page(host: LabHost, url: string = PAGE): Promise<string> {
  const { code, stdout } = await host.exec([HIGGS, "lab-service", "fetch", url], { timeoutMs: 20_000 });
  return code === 0 ? stdout.trim() : "";
}

/** Asks again and again, as a path that is just changing may cost a try. Throws LabTimeout. */
export async function untilBrowses(host: LabHost): Promise<void> {
  await until(async () => [HOME4, HOME6].includes(await page(host)), {
    timeoutMs: 40_000,
    what: "the page through the home PC",
  });
}

/** Of the living process of a role, by its lock. */
export async function pidOf(host: LabHost, role: "server" | "node" | "client"): Promise<number> {
  return (JSON.parse(await host.readFile(`/run/higgs/${role}/lock`)) as { pid: number }).pid;
}

/** Of the wireguard-go that serves an interface of this host. */
export async function wireGuardPids(host: LabHost, interfaceName: string): Promise<readonly number[]> {
  const { stdout } = await host.exec(["pgrep", "-f", `wireguard-go.* ${interfaceName}$`]);
  return stdout.split("\n").filter(Boolean).map(Number);
}

/** Resolves when none of them is left. */
export async function killNow(host: LabHost, ...pids: readonly number[]): Promise<void> {
  await host.execOrThrow(["kill", "-9", ...pids.map(String)]);
  await until(
    async () => (await host.exec(["ps", "-o", "stat=", "-p", pids.join(",")])).stdout.replaceAll(/Z\S*|\s/g, "") === "",
    {
      what: `the end of ${pids.join(", ")}`,
    },
  );
}

/**
 * What leaves a connected host's network card and is neither its carrier to the server nor WireGuard, nor what a network needs to
 * be one: neighbours, DHCP, and asking the router for a port. In tcpdump's language.
 */
export async function leaksOf(host: LabHost, wireGuardPort: number): Promise<string> {
  const mac = (await host.readFile("/sys/class/net/eth0/address")).trim();
  return [
    `ether src ${mac}`,
    "not arp",
    `not host ${VPS4}`,
    `not host ${VPS6}`,
    `not (udp src port ${wireGuardPort})`,
    "not (udp dst port 5351 or udp dst port 1900)",
    "not (udp src port 68 and udp dst port 67)",
    "not (icmp6 and ip6[40] >= 133 and ip6[40] <= 137)",
    "not (ip6[6] == 0 and ip6[40] == 58)", // reports of multicast groups
  ].join(" and ");
}

/** Of a device that is up. */
export async function wireGuardPort(host: LabHost): Promise<number> {
  return Number((await host.execOrThrow(["wg", "show", "higgs0", "listen-port"])).trim());
}

export interface Probing {
  /** How many rounds were sent since. */
  rounds(): number;
  stop(): Promise<void>;
}

/** From now on, ten times a second, one packet of each kind that could leak. Resolves after the first round. */
export async function startProbing(host: LabHost): Promise<Probing> {
  const child = await host.spawn([...PROGRAM, "probe"]);
  await child.waitForLine(/^round /);
  return {
    rounds: () => child.lines.length,
    stop: async () => await child[Symbol.asyncDispose](),
  };
}

/** Runs inside of the host, as the moments are milliseconds apart. */
export async function killAt(host: LabHost, plan: KillPlan): Promise<Killed> {
  const order = JSON.stringify({ ...plan, command: asService(plan.command) });
  const said = await host.execOrThrow([...PROGRAM, "kill", order], { timeoutMs: 100_000 });
  return JSON.parse(said.trim().split("\n").at(-1) ?? "{}") as Killed;
}

export interface StreamPlan {
  readonly to: string;
  readonly port: number;
  /** At most, if nobody ends it before. */
  readonly count: number;
  readonly perS: number;
}

export interface Streamed {
  readonly sent: number;
  /** Different ones that were echoed. */
  readonly back: number;
  /** Echoed after one that was sent later. */
  readonly late: number;
  /** As it was. */
  readonly perS: number;
}

const ECHO_PORT = 7_007;

/** Answers the streams of other hosts until the host goes. */
export async function startEcho(host: LabHost): Promise<void> {
  const child = await host.spawn([...PROGRAM, "echo", String(ECHO_PORT)]);
  await child.waitForLine(/^echoing/);
}

/** Numbered datagrams to the echoing host. Resolves after the first second; `stop` ends it, and resolves with what became of them all. */
export async function startStream(
  host: LabHost,
  plan: Omit<StreamPlan, "port">,
): Promise<{ stop(): Promise<Streamed> }> {
  const child = await host.spawn([...PROGRAM, "stream", JSON.stringify({ ...plan, port: ECHO_PORT })]);
  await child.waitForLine(/^streaming/);
  return {
    async stop() {
      child.kill("SIGTERM");
      return JSON.parse(await child.waitForLine(/^\{/)) as Streamed;
    },
  };
}
