// Looks at this machine for `higgs doctor`: tools, privileges, neighbours, and each role that lives here. Changes nothing.
import { existsSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { carried } from "higgs:carried-wireguard-go";
import { z } from "zod";
import { withDeadline } from "../base/async.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import { type Exec, findTool, systemExec, toolMissing } from "../net/exec.ts";
import { commandsOf, hasIptables } from "../net/firewall/iptables.ts";
import { foreignDrops } from "../net/firewall/foreign.ts";
import { iptablesForeignDrops } from "../net/firewall/iptables-foreign.ts";
import { IDENTIFIERS } from "../net/identifiers.ts";
import { readPrefixes } from "../net/links.ts";
import { callLocal } from "../net/local-api.ts";
import { readNeighbours } from "../net/neighbours.ts";
import { MAC_TOOLS, macToolMissing, WINDOWS_TOOLS } from "../net/platform-tools.ts";
import { type Platform, platformOf } from "../net/platform.ts";
import { readPrivileges } from "../net/privileges.ts";
import { type Enrolment, readEnrolment } from "../peer/enrolment.ts";
import { openDoor } from "../peer/server-door.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { parseHostPort } from "../base/ip.ts";
import type { AnyRole } from "./config.ts";
import type { DoctorFacts, RoleFacts } from "./doctor.ts";
import { findProxy } from "./proxy.ts";
import type { ProxySetting } from "./proxy-setting.ts";
import { SOCKET } from "./runtime.ts";
import { leftByName } from "./state.ts";
import { stoppedStatus } from "./stopped-status.ts";

export interface RolePlace {
  readonly role: AnyRole;
  readonly stateDir: string;
  readonly runDir: string;
  /** Of a node and a client. */
  readonly proxy: ProxySetting | null;
}

const TOOLS: Readonly<Record<Platform, readonly string[]>> = {
  linux: ["ip", "wg", "nft", "ping"],
  macos: [...MAC_TOOLS, "ping"],
  windows: [...WINDOWS_TOOLS, "ping"],
};
/** What is seen of a machine without them. */
const OPTIONAL: ReadonlySet<string> = new Set(["wg", "wireguard", "ping", "conntrack"]);
/** One server that does not answer must not keep the rest from being told. */
const SERVER_TIMEOUT_MS = 5_000;
const LOCAL_TIMEOUT_MS = 5_000;

export async function doctorFacts(places: readonly RolePlace[], signal: AbortSignal): Promise<DoctorFacts> {
  const exec = systemExec();
  const here = places.filter(({ stateDir, runDir }) => existsSync(stateDir) || existsSync(runDir));
  const platform = platformOf();
  const isLinux = platform === "linux";
  const tools = platform === null ? [] : TOOLS[platform];
  const wanted = isLinux && here.some(({ role }) => role === "server") ? [...tools, "conntrack"] : tools;
  const missing = platform === "macos" ? macToolMissing : toolMissing;
  const missingTools = wanted.flatMap((tool) =>
    findTool(tool) === null ? [{ tool, remedy: missing(tool).remedy ?? "" }] : [],
  );
  const has = (tool: string): boolean => missingTools.every((one) => one.tool !== tool);
  const privileges = await readPrivileges();
  const canSee =
    privileges.netAdmin && missingTools.every(({ tool }) => OPTIONAL.has(tool) || (tool === "nft" && hasIptables()));
  // Of a machine that has both, the client's packets are taken first.
  const hasRole = (role: AnyRole): boolean => here.some((place) => place.role === role);
  const firstRole = hasRole("node") && !hasRole("client") ? "node" : "client";
  const known = { ours: Object.values(IDENTIFIERS), role: IDENTIFIERS[firstRole] };
  const [neighbours, forwardDrops, prefixes, roles] = await Promise.all([
    // Those of Linux are known; of what else filters on another platform nothing is looked for.
    isLinux ? (canSee ? readNeighbours(exec, known, signal) : null) : [],
    isLinux && canSee ? dropsOfOthers(exec, has("nft") ? "nft" : "iptables", signal) : [],
    isLinux && has("ip") ? readPrefixes(exec, signal) : [],
    Promise.all(here.map((place) => roleFacts(place, { canSee, signal }))),
  ]);
  return {
    platform,
    missingTools,
    hasIptables: hasIptables(),
    privileges,
    // An elevated process of Windows is what root is elsewhere.
    isRoot: platform === "windows" ? privileges.netAdmin : process.getuid?.() === 0,
    wireGuard: wireGuardHere(),
    neighbours,
    forwardDrops,
    prefixes,
    roles,
  };
}

/** The old iptables beside nft is a neighbour of its own. */
function dropsOfOthers(exec: Exec, by: "nft" | "iptables", signal: AbortSignal): Promise<readonly string[]> {
  if (by === "nft") return foreignDrops(exec, IDENTIFIERS.node, signal);
  const wherein = { commands: commandsOf("iptables"), tunnel: IDENTIFIERS.node.interface };
  return iptablesForeignDrops(exec, wherein, signal);
}

/** By what is there; whether it works is known when a tunnel is made. */
function wireGuardHere(): DoctorFacts["wireGuard"] {
  return [
    ...(kernelHasWireGuard() ? (["kernel"] as const) : []),
    ...(carried === null ? [] : (["carried"] as const)),
    ...(findTool("wireguard-go") === null ? [] : (["path"] as const)),
  ];
}

function kernelHasWireGuard(): boolean {
  if (existsSync("/sys/module/wireguard")) return true;
  const dir = join("/lib/modules", release());
  return ["modules.dep", "modules.builtin"].some((name) => {
    const path = join(dir, name);
    return existsSync(path) && /\/wireguard\.ko/.test(readFileSync(path, "utf8"));
  });
}

async function roleFacts(
  { role, stateDir, runDir, proxy }: RolePlace,
  { canSee, signal }: { readonly canSee: boolean; readonly signal: AbortSignal },
): Promise<RoleFacts> {
  const status = await statusOf(runDir, signal);
  // A machine that is closed reaches no server, and says why itself.
  const closed = role === "client" && status === null ? await stoppedStatus(stateDir, signal) : null;
  const left = canSee && status === null ? await leftByName(role, stateDir, signal) : null;
  const base = { role, isRunning: status !== null, left, health: status?.health ?? closed?.health ?? [] };
  if (role === "server") return { ...base, ranges: [], servers: [] };
  const enrolment = await enrolmentOf(role, stateDir);
  if (enrolment === null) return { ...base, ranges: [], servers: [] };
  return {
    ...base,
    ranges: [enrolment.range4, enrolment.range6],
    servers: await Promise.all(
      (closed === null ? enrolment.servers : []).map((server) =>
        reached(server, { stateDir, enrolment, proxy }, signal),
      ),
    ),
  };
}

const statusSchema = z.looseObject({
  health: z.array(
    z.object({
      code: z.string(),
      severity: z.enum(["low", "medium", "high"]),
      text: z.string(),
      remedy: z.string().nullable(),
    }),
  ),
});

/** Null: it does not run, or is not for us to ask. */
async function statusOf(runDir: string, signal: AbortSignal): Promise<z.infer<typeof statusSchema> | null> {
  try {
    const answer = await withDeadline(
      "ask the running role",
      (inner) => callLocal(join(runDir, SOCKET.everyday), "status", { signal: inner }),
      { timeoutMs: LOCAL_TIMEOUT_MS, signal },
    );
    return statusSchema.parse(answer);
  } catch (thrown) {
    signal.throwIfAborted();
    if (thrown instanceof HiggsError) return null;
    throw thrown;
  }
}

async function enrolmentOf(role: "node" | "client", stateDir: string): Promise<Enrolment | null> {
  try {
    return existsSync(stateDir) ? await readEnrolment(await openStateDir(stateDir), role) : null;
  } catch (thrown) {
    if (thrown instanceof HiggsError || isForOthers(thrown)) return null; // not joined, damaged (its start says so), or not for us
    throw thrown;
  }
}

function isForOthers(thrown: unknown): boolean {
  return thrown instanceof Error && "code" in thrown && (thrown.code === "EACCES" || thrown.code === "EPERM");
}

async function reached(
  server: Enrolment["servers"][number],
  of: { readonly stateDir: string; readonly enrolment: Enrolment; readonly proxy: ProxySetting | null },
  signal: AbortSignal,
): Promise<RoleFacts["servers"][number]> {
  const { name } = server;
  try {
    const target = parseHostPort(name, 443);
    if (target === null) return { name, trouble: null };
    const use = await findProxy(await openStateDir(of.stateDir), of.proxy);
    const hints = { addresses: server.addresses, pin: server.pin, proxy: use?.for(target) ?? null };
    await withDeadline(`reach ${name}`, (inner) => openDoor(target, of.enrolment.network, hints, inner), {
      timeoutMs: SERVER_TIMEOUT_MS,
      signal,
    });
    return { name, trouble: null };
  } catch (thrown) {
    signal.throwIfAborted();
    const { code, remedy } = thrown instanceof HiggsError ? thrown : { code: "server-unreachable", remedy: undefined };
    return { name, trouble: { code, text: errorText(thrown), remedy: remedy ?? null } };
  }
}
