// What a WireGuard device needs of macOS beside its tools: the file with the tunnel's name, wireguard-go and its control socket.
import { mkdir, readFile, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { findTool } from "../exec.ts";
import { TUNNEL_NAME_PATH } from "../identifiers-macos.ts";
import { isPortFree, launch, socketPath, socketState } from "./host.ts";
import { askUapi } from "./transfers.ts";

export interface MacWireGuardHost {
  /** What wireguard-go wrote of the name that macOS gave its tunnel; null without the file. */
  readName(): Promise<string | null>;
  removeName(): Promise<void>;
  /** Starts a wireguard-go, which makes a daemon of itself and outlives us; it writes the tunnel's name for `readName`. */
  launch(path: string): Promise<{ readonly code: number; readonly said: string }>;
  /** The control socket of a tunnel: whether there is one, and whether anybody listens. */
  socketState(tunnel: string): Promise<"absent" | "stale" | "answers">;
  /** Ends the wireguard-go that listens there, and its tunnel with it: it watches the file (its ipc/uapi_bsd.go). */
  removeSocket(tunnel: string): Promise<void>;
  /** What it says of itself and its peers. Throws when it does not answer. */
  askSocket(tunnel: string): Promise<string>;
  /** True when nobody has the UDP port, in either family. */
  isPortFree(port: number): Promise<boolean>;
  wireguardGoOnPath(): string | null;
}

const SOCKET_TIMEOUT_MS = 1_000;

export function macWireGuardHost(): MacWireGuardHost {
  return {
    readName,
    removeName: () => unlink(TUNNEL_NAME_PATH).catch(() => undefined), // gone already
    async launch(path) {
      await mkdir(dirname(TUNNEL_NAME_PATH), { recursive: true, mode: 0o755 });
      // wireguard-go's README, "macOS": "utun" lets the kernel choose a number, and the file learns it.
      return await launch([path, "utun"], { WG_TUN_NAME_FILE: TUNNEL_NAME_PATH });
    },
    socketState: (tunnel) => socketState(socketPath(tunnel)),
    removeSocket: (tunnel) => unlink(socketPath(tunnel)).catch(() => undefined), // gone already
    askSocket: (tunnel) => askUapi(socketPath(tunnel), SOCKET_TIMEOUT_MS),
    isPortFree,
    wireguardGoOnPath: () => findTool("wireguard-go"),
  };
}

/** wireguard-go writes the file and opens its socket in one go; a socket of another time is of another's tunnel of that name. */
const SAME_TIME_MS = 2_000;

async function readName(): Promise<string | null> {
  const name = await readFile(TUNNEL_NAME_PATH, "utf8").then(
    (text) => text.trim(),
    () => null, // no tunnel of ours
  );
  if (name === null || !isTunnelName(name)) return name;
  const [file, socket] = await Promise.all(
    [TUNNEL_NAME_PATH, socketPath(name)].map((path) => stat(path).catch(() => null)),
  );
  const isOfAnother = file != null && socket != null && Math.abs(file.mtimeMs - socket.mtimeMs) > SAME_TIME_MS;
  return isOfAnother ? null : name;
}

/** Names of tunnels as macOS gives them; whatever else is in the file is not believed. */
export function isTunnelName(text: string): boolean {
  return /^utun\d{1,4}$/.test(text);
}

/** What macOS has named our tunnel, while a wireguard-go serves it; null otherwise. */
export async function tunnelName(host: MacWireGuardHost): Promise<string | null> {
  const name = await host.readName();
  if (name === null || !isTunnelName(name)) return null;
  return (await host.socketState(name)) === "answers" ? name : null;
}
