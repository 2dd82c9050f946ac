// What a WireGuard device needs of the machine beside its tools: sockets, processes and the kernel's tables of them.
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { unlink } from "node:fs/promises";
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import { basename, join } from "node:path";
import { findTool } from "../exec.ts";
import { type PrivilegeFacts, tunProblem } from "../privileges.ts";
import { askUapi } from "./transfers.ts";

export interface WireGuardProcess {
  readonly pid: number;
  readonly path: string;
}

export interface WireGuardHost {
  /** Starts a program that makes a daemon of itself; resolves when the first process ended, the daemon lives on without us. `said` is all its output. */
  launch(argv: readonly [string, ...string[]]): Promise<{ readonly code: number; readonly said: string }>;
  /** The control socket of a wireguard-go: whether there is one, and whether anybody listens. */
  socketState(interfaceName: string): Promise<"absent" | "stale" | "answers">;
  removeSocket(interfaceName: string): Promise<void>;
  /** What the wireguard-go of the interface says of itself and its peers. Throws when it does not answer. */
  askSocket(interfaceName: string): Promise<string>;
  /** The wireguard-go that serves this interface here; null when none is seen. */
  processOf(interfaceName: string): WireGuardProcess | null;
  /** Without any grace, and in vain for one that is over or another user's. */
  killProcess(one: WireGuardProcess): void;
  /** True when nobody has the UDP port, in either family. */
  isPortFree(port: number): Promise<boolean>;
  /** True when some socket of this network has the UDP port, the kernel's own included. */
  isPortBound(port: number): boolean;
  hasIpv6(interfaceName: string): boolean;
  tunProblem(): Promise<PrivilegeFacts["tunProblem"]>;
  wireguardGoOnPath(): string | null;
  /** /proc/net/dev */
  netDev(): string;
}

/** Where `wg` and wireguard-go meet; both have it built in. */
const SOCKET_DIR = "/var/run/wireguard";
const LAUNCH_TIMEOUT_MS = 10_000;
const SOCKET_TIMEOUT_MS = 1_000;
const DAEMON_ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" };

export function linuxWireGuardHost(): WireGuardHost {
  return {
    launch,
    socketState: (interfaceName) => socketState(socketPath(interfaceName)),
    removeSocket: (interfaceName) => unlink(socketPath(interfaceName)).catch(() => undefined), // gone already
    askSocket: (interfaceName) => askUapi(socketPath(interfaceName), SOCKET_TIMEOUT_MS),
    processOf,
    killProcess,
    isPortFree,
    isPortBound: (port) => ["udp", "udp6"].some((table) => hasLocalPort(readOrEmpty(`/proc/self/net/${table}`), port)),
    hasIpv6: (interfaceName) => readOrEmpty(`/proc/sys/net/ipv6/conf/${interfaceName}/disable_ipv6`).trim() === "0",
    tunProblem: () => tunProblem("/dev/net/tun"),
    wireguardGoOnPath: () => findTool("wireguard-go"),
    netDev: () => readFileSync("/proc/self/net/dev", "utf8"),
  };
}

export function socketPath(interfaceName: string): string {
  return join(SOCKET_DIR, `${interfaceName}.sock`);
}

/** A session of its own, so that neither Ctrl-C nor the end of our terminal reaches the daemon; no pipe outlives the first process. */
export async function launch(
  argv: readonly [string, ...string[]],
  environment: Readonly<Record<string, string>> = {},
): Promise<{ readonly code: number; readonly said: string }> {
  const child = Bun.spawn([...argv], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    cwd: "/",
    env: { ...DAEMON_ENVIRONMENT, ...environment },
    detached: true,
    timeout: LAUNCH_TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  const [errors, messages, code] = await Promise.all([
    new Response(child.stderr).text(),
    new Response(child.stdout).text(),
    child.exited,
  ]);
  return { code, said: `${errors}\n${messages}` };
}

export function socketState(path: string): Promise<"absent" | "stale" | "answers"> {
  if (!existsSync(path)) return Promise.resolve("absent");
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve("answers");
    });
    socket.once("error", () => {
      socket.destroy();
      resolve(existsSync(path) ? "stale" : "absent");
    });
  });
}

/** Names that other users give their processes count for nothing: only root's and our own are looked at. */
function processOf(interfaceName: string): WireGuardProcess | null {
  const ourNetwork = readlinkOrNull("/proc/self/ns/net");
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const argv = readOrEmpty(`/proc/${entry}/cmdline`).split("\0");
    if (!basename(argv[0] ?? "").startsWith("wireguard-go") || !argv.slice(1).includes(interfaceName)) continue;
    if (!isOursOrRoots(`/proc/${entry}`)) continue;
    if (readlinkOrNull(`/proc/${entry}/ns/net`) !== ourNetwork) continue;
    return { pid: Number(entry), path: readlinkOrNull(`/proc/${entry}/exe`) ?? argv[0] ?? "" };
  }
  return null;
}

function killProcess({ pid }: WireGuardProcess): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // over since it was seen, or root's
  }
}

function isOursOrRoots(processDir: string): boolean {
  try {
    const { uid } = statSync(processDir);
    return uid === 0 || uid === process.getuid?.();
  } catch {
    return false; // over since the listing
  }
}

export async function isPortFree(port: number): Promise<boolean> {
  const taken = await Promise.all([isTaken("udp4", port), isTaken("udp6", port)]);
  return !taken.includes(true);
}

/** A family that the machine does not have is not taken. */
function isTaken(type: "udp4" | "udp6", port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createSocket({ type, ipv6Only: type === "udp6" });
    socket.once("error", (thrown) => {
      socket.close();
      resolve("code" in thrown && thrown.code === "EADDRINUSE");
    });
    socket.bind({ port, exclusive: true }, () => socket.close(() => resolve(false)));
  });
}

/** From /proc/net/udp or udp6: the second field of a line is the local address and port in hexadecimal. */
export function hasLocalPort(table: string, port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  return table.split("\n").some((line) => line.trim().split(/\s+/)[1]?.endsWith(`:${hex}`) === true);
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // no such setting, or a process that is over
  }
}

function readlinkOrNull(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null; // over, or not ours to look at
  }
}
