// The lab that the benches measure in: the small internet with the real executable on server, home PC and laptop.
import { resolve } from "node:path";
import type { LabHost } from "../src/lab/host.ts";
import { type Lab, startLab } from "../src/lab/lab.ts";
import { labPrivilege } from "../src/lab/privilege.ts";
import type { LabProcess } from "../src/lab/process.ts";
import { LAB_CA_PATH } from "../src/lab/service.ts";
import { DNS_NAME, smallInternet, type SmallInternetOptions } from "../src/lab/small-internet.ts";
import { processesIn } from "./processes.ts";

export const HIGGS = "/usr/local/bin/higgs";
/** The internet's web server; what listens there beside it is reached through the exit too. */
export const WEB_ADDRESS = "203.0.113.80";
const START_TIMEOUT_MS = 20_000;
const DNS_FLAGS: readonly string[] = ["--dns", `https://${DNS_NAME}/dns-query`, "--dns-ca", LAB_CA_PATH];

/** $HIGGS_BIN, or dist/higgs. */
export function higgsBinary(): string {
  return resolve(process.env.HIGGS_BIN ?? resolve(import.meta.dir, "../dist/higgs"));
}

export async function benchLab(options: SmallInternetOptions, signal: AbortSignal): Promise<Lab> {
  const privilege = await labPrivilege("bun bench/…");
  if (privilege.kind === "refused") throw new Error(`Cannot build the lab: ${privilege.why}. ${privilege.say}`);
  if (privilege.kind === "userns") throw new Error("Cannot build the lab: this is for root.");
  return await startLab(smallInternet(options), {
    signal,
    programs: { higgs: higgsBinary(), bun: process.execPath },
    visible: [resolve(import.meta.dir, "..")],
    serviceProgram: [HIGGS, "lab-service"],
  });
}

export interface BenchNetwork {
  readonly server: LabProcess;
  readonly node: LabProcess;
  /** For the laptop, not used yet. */
  readonly clientInvite: string;
}

/** Server and node run; the laptop has not joined. */
export async function startNetwork(lab: Lab, signal: AbortSignal): Promise<BenchNetwork> {
  const server = await startServer(lab, signal);
  const nodeInvite = await inviteFor(lab, "node", signal);
  const clientInvite = await inviteFor(lab, "client", signal);
  const node = await startNode(lab, signal, { invite: nodeInvite });
  return { server, node, clientInvite };
}

export interface ServerPlace {
  /** Default "vps". */
  readonly host?: string;
  /** Before the command: `env`, with what the server is to find there. */
  readonly prefix?: readonly string[];
  readonly flags?: readonly string[];
}

export async function startServer(lab: Lab, signal: AbortSignal, place: ServerPlace = {}): Promise<LabProcess> {
  const { host = "vps", prefix = [], flags = [] } = place;
  const argv = [...prefix, HIGGS, "server", "--log-level", "warn", ...flags];
  const server = await lab.host(host).spawn(argv);
  await server.waitForLine(/is running at/, { timeoutMs: START_TIMEOUT_MS, signal });
  return server;
}

/** Without an invite it has joined before. Resolves when its control socket answers. */
export async function startNode(
  lab: Lab,
  signal: AbortSignal,
  place: { readonly host?: string; readonly invite?: string } = {},
): Promise<LabProcess> {
  const join = place.invite === undefined ? [] : ["--join", place.invite];
  const node = await lab.host(place.host ?? "home-pc").spawn([HIGGS, "node", ...join, ...DNS_FLAGS]);
  await node.waitForLine(/higgs node.* is running/, { timeoutMs: START_TIMEOUT_MS, signal });
  return node;
}

export async function inviteFor(
  lab: Lab,
  role: "node" | "client",
  signal: AbortSignal,
  server = "vps",
): Promise<string> {
  const text = await lab.host(server).execOrThrow([HIGGS, "server", "invite", role, "--json"], { signal });
  return (JSON.parse(text) as { invite: string }).invite;
}

/** Resolves when connected; gives what the command printed. */
export async function clientUp(
  lab: Lab,
  signal: AbortSignal,
  place: { readonly host?: string; readonly invite?: string; readonly flags?: readonly string[] } = {},
): Promise<string> {
  const join = place.invite === undefined ? [] : ["--join", place.invite];
  return await lab
    .host(place.host ?? "laptop")
    .execOrThrow([HIGGS, "client", "up", ...join, ...(place.flags ?? [])], { timeoutMs: START_TIMEOUT_MS, signal });
}

/** By which path the client's exit is reached now; null while it is not connected. */
export async function pathKind(client: LabHost): Promise<string | null> {
  const { stdout } = await client.exec([HIGGS, "client", "status", "--json"]);
  return stdout.startsWith("{") ? ((JSON.parse(stdout) as { path: { kind: string } | null }).path?.kind ?? null) : null;
}

/** Throws when it does not come to it. */
export async function untilPath(client: LabHost, kind: string, signal: AbortSignal, everyMs = 100): Promise<void> {
  const until = performance.now() + START_TIMEOUT_MS;
  while ((await pathKind(client)) !== kind) {
    signal.throwIfAborted();
    if (performance.now() > until) throw new Error(`Cannot measure: "${client.name}" has no path of the kind ${kind}.`);
    await Bun.sleep(everyMs);
  }
}

/** Resolves when its process is gone too, which is some milliseconds after the command. */
export async function clientDown(lab: Lab, signal: AbortSignal): Promise<void> {
  const laptop = lab.host("laptop");
  await laptop.execOrThrow([HIGGS, "client", "down"], { timeoutMs: START_TIMEOUT_MS, signal });
  while (processesIn(laptop.pid, PROCESS.client).length > 0) {
    signal.throwIfAborted();
    await Bun.sleep(10);
  }
}

/** The one process of a host that matches, by the pids of this namespace. */
export function processIn(host: LabHost, pattern: RegExp): number {
  const [pid] = processesIn(host.pid, pattern);
  if (pid === undefined) throw new Error(`Cannot find a process like ${pattern} on "${host.name}".`);
  return pid;
}

export const PROCESS = {
  server: /^\/usr\/local\/bin\/higgs server/,
  node: /^\/usr\/local\/bin\/higgs node/,
  client: /^\/usr\/local\/bin\/higgs client run/,
  wireGuard: /wireguard-go/,
} as const;
