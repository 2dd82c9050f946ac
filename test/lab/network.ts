// A network of higgs in the lab as people would set it up: server, node and clients of the real binary, and what they say of themselves.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab, LabOptions } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { LAB_CA_PATH } from "../../src/lab/service.ts";
import { DNS_NAME } from "../../src/lab/small-internet.ts";
import type { ExecResult } from "../../src/lab/spawn.ts";
import type { Topology } from "../../src/lab/topology.ts";
import { bundleForHosts } from "./bundle.ts";
import { higgsBinary, startHiggsLab, until } from "./harness.ts";

export const HIGGS = "/usr/local/bin/higgs";
/** Real machines ask real resolvers; the lab's internet has one of its own. */
export const DNS_FLAGS: readonly string[] = ["--dns", `https://${DNS_NAME}/dns-query`, "--dns-ca", LAB_CA_PATH];
const START_MS = 20_000;

/** A lab with the binary, and with the programs that send probes (net-hosts.ts) and ask DNS (dns-hosts.ts), and `programs` of this folder. */
export async function startNetworkLab(
  topology: Topology,
  { programs: more = [], ...options }: Pick<LabOptions, "visible"> & { readonly programs?: readonly string[] } = {},
): Promise<Lab> {
  const dir = mkdtempSync(join(tmpdir(), "higgs-lab-programs-"));
  try {
    const programs: Record<string, string> = { higgs: higgsBinary(), bun: process.execPath };
    for (const name of ["net-probe", "dns-probe", ...more]) {
      const path = join(dir, `${name}.js`);
      const program = JSON.stringify(join(import.meta.dir, `${name}.program.ts`));
      await Bun.write(path, await bundleForHosts(`${name}-entry.ts`, `await import(${program});\n`));
      programs[`${name}.js`] = path;
    }
    return await startHiggsLab(topology, { ...options, programs });
  } finally {
    rmSync(dir, { recursive: true }); // the hosts have them on their disks
  }
}

/** What `startFlood` sends, in tcpdump's language. */
export const FLOOD = "udp and dst host 203.0.113.80 and dst port 9999";

/** Datagrams to the internet, one after the other without a pause, from now on. */
export async function startFlood(host: Pick<LabHost, "spawn">): Promise<LabProcess> {
  const script = "echo flooding; while :; do echo leak > /dev/udp/203.0.113.80/9999; done 2>/dev/null";
  const flood = await host.spawn(["bash", "-c", script]);
  await flood.waitForLine(/flooding/);
  return flood;
}

/** Resolves when the server answers on its control socket. */
export async function startServer(lab: Lab): Promise<LabProcess> {
  const server = await lab.host("vps").spawn([HIGGS, "server"]);
  await server.waitForLine(/is running at/, { timeoutMs: START_MS });
  return server;
}

export async function invite(lab: Lab, role: "node" | "client"): Promise<string> {
  const made = await lab.host("vps").execOrThrow([HIGGS, "server", "invite", role, "--json"]);
  return (JSON.parse(made) as { invite: string }).invite;
}

/** Resolves when the exit is offered. `flags` instead of those for the lab's own DNS. */
export async function startNode(
  host: LabHost,
  options: { join?: string; flags?: readonly string[] } = {},
): Promise<LabProcess> {
  const node = await spawnNode(host, options);
  await node.waitForLine(/exit offered/, { timeoutMs: START_MS });
  return node;
}

/** For a node that will offer no exit. */
export function spawnNode(
  host: LabHost,
  options: { join?: string; flags?: readonly string[] } = {},
): Promise<LabProcess> {
  const joining = options.join === undefined ? [] : ["--join", options.join];
  return host.spawn([HIGGS, "node", ...joining, ...(options.flags ?? DNS_FLAGS)]);
}

/** `higgs client up` with more flags; what it said, whatever the outcome. */
export function clientUp(host: LabHost, ...flags: readonly string[]): Promise<ExecResult> {
  return host.exec([HIGGS, "client", "up", ...flags], { timeoutMs: 40_000 });
}

/** Joins and connects. Throws with what `up` said unless it is connected. */
export async function connectClient(lab: Lab, name: string, ...flags: readonly string[]): Promise<void> {
  const up = await clientUp(lab.host(name), "--join", await invite(lab, "client"), ...flags);
  if (up.code !== 0) throw new Error(`"${name}" did not connect (exit code ${up.code}): ${up.stderr}${up.stdout}`);
}

export interface NodeStatus {
  readonly state: string;
  readonly tunnel: { readonly interface: string; readonly ipv4: string; readonly ipv6: string };
  readonly exit: { readonly ready: boolean; readonly ipv6: boolean; readonly publicAddress: string | null };
  readonly clients: readonly { readonly name: string; readonly lastHandshake: string | null }[];
  readonly health: readonly { readonly code: string; readonly text: string }[];
}

export interface ClientStatus {
  readonly state: string;
  readonly tunnel: { readonly ipv4: string; readonly ipv6: string };
  readonly exit: { readonly name: string; readonly publicAddress: string | null; readonly ipv6: boolean } | null;
  readonly health: readonly { readonly code: string; readonly text: string }[];
}

export async function nodeStatus(host: LabHost): Promise<NodeStatus> {
  return await statusOf<NodeStatus>(host, "node");
}

export async function clientStatus(host: LabHost): Promise<ClientStatus> {
  return await statusOf<ClientStatus>(host, "client");
}

/** A degraded or unconnected role has an exit code of its own, and says as much. */
async function statusOf<T>(host: LabHost, role: "node" | "client"): Promise<T> {
  const { stdout, stderr } = await host.exec([HIGGS, role, "status", "--json"]);
  try {
    return JSON.parse(stdout) as T;
  } catch {
    throw new Error(`"${host.name}" gave no status: ${stderr}${stdout}`);
  }
}

/** The text of a page, by the binary's own fetch. Throws with its words when it fails. */
export async function fetchPage(host: LabHost, url: string): Promise<string> {
  const answer = await host.exec([HIGGS, "lab-service", "fetch", url], { timeoutMs: 20_000 });
  if (answer.code !== 0) throw new Error(`"${host.name}" cannot fetch ${url}: ${answer.stderr}`);
  return answer.stdout.trim();
}

/** SIGKILL to the process that runs a role; its tunnel stays. Resolves when it is gone. */
export async function killRole(running: LabProcess): Promise<void> {
  running.kill("SIGKILL");
  await running.exited;
}

/** Ends a node as a person would, and resolves when everything is put back. */
export async function nodeDown(host: LabHost, running: LabProcess): Promise<void> {
  await host.execOrThrow([HIGGS, "node", "down"]);
  await running.exited;
}

const WIREGUARD_PORT = 51_999;
const STAYS = 5;
const STAYS_APART_MS = 400;
/** Nothing but the way by the server: it is the test that leads a tunnel elsewhere. */
export const RELAYED_FLAGS: readonly string[] = ["--paths", "wss"];
/** For `startNode`: the home's router has to forward this UDP port to it. */
export const DIRECT_FLAGS: readonly string[] = ["--port", String(WIREGUARD_PORT), ...RELAYED_FLAGS];
export const DIRECT_FORWARD = {
  protocol: "udp",
  port: WIREGUARD_PORT,
  to: "192.168.1.10",
  toPort: WIREGUARD_PORT,
} as const;

/**
 * Leads a client's WireGuard to the node past the server, by the port that the home's router forwards: then the tunnel carries
 * packets without any process of higgs at the node. Resolves when the node has answered on that way.
 */
export async function goDirect(client: LabHost, home: string): Promise<void> {
  const peer = (await client.execOrThrow(["wg", "show", "higgs0", "peers"])).trim();
  const node = (await client.execOrThrow(["wg", "show", "higgs0", "allowed-ips"])).match(
    /\b10\.\d+\.\d+\.\d+(?=\/32)/,
  )?.[0];
  const way = `${home}:${WIREGUARD_PORT}`;
  const answers = async (): Promise<boolean> => {
    if ((await client.exec(["ping", "-n", "-c", "1", "-W", "2", node ?? ""])).code !== 0) return false;
    return (await client.execOrThrow(["wg", "show", "higgs0", "endpoints"])).includes(way);
  };
  // A session that was still being made leads the client back to the server.
  const stays = async (): Promise<boolean> => {
    for (let i = 0; i < STAYS; i++) {
      if (!(await answers())) return false;
      await Bun.sleep(STAYS_APART_MS);
    }
    return true;
  };
  await until(
    async () => {
      // Both ends follow every packet: one that was still under way by the server does as much.
      await client.execOrThrow(["wg", "set", "higgs0", "peer", peer, "endpoint", way]);
      return await stays();
    },
    { what: "answers of the node without the server" },
  );
}
