// Lab hosts that carry a tunnel over paths of the test's choosing: orders to the driver that runs in each.
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import type { PortMapperOptions, PortMapping } from "../../src/net/port-mapping/port-mapping.ts";
import type { RedirectPolicy } from "../../src/net/redirect.ts";
import type { PeerMtu } from "../../src/net/routes/peer-mtu.ts";
import type { WireGuardConfig, WireGuardPeer } from "../../src/net/wg/device.ts";
import { ROOT_DIR } from "./bundle.ts";

/** In each host. */
export const PATH_SOCKET = "/run/path-driver.sock";

export type PathOrder =
  | { readonly do: "wireguard"; readonly config: WireGuardConfig }
  | { readonly do: "peer"; readonly peer: WireGuardPeer }
  | {
      readonly do: "open";
      readonly mechanism: "nft" | "bridge";
      readonly ports: { readonly wireGuardPort: number; readonly publicPort?: number };
    }
  | { readonly do: "ask"; readonly to: string; readonly sizeBytes?: number; readonly bySide?: boolean }
  | { readonly do: "side" }
  | { readonly do: "peer-socket"; readonly to: string }
  | { readonly do: "route"; readonly to: string; readonly alsoFrom?: readonly string[] }
  | { readonly do: "redirect"; readonly policy: RedirectPolicy }
  | { readonly do: "mtus"; readonly peers: readonly PeerMtu[] }
  | { readonly do: "stream"; readonly to: string }
  | { readonly do: "map"; readonly options: Omit<PortMapperOptions, "onChange"> }
  | { readonly do: "close" | "repair" | "stop" | "refresh" | "unmap" | "undo" | "status" };

export interface PathStatus {
  /** Datagrams of the stream through the tunnel. */
  readonly sent: number;
  readonly received: number;
  /** Where WireGuard sends, by peer. */
  readonly endpoints: readonly string[];
  readonly mapping: PortMapping | null;
  /** What discovery was given and is no STUN message. */
  readonly mistaken: number;
}

export interface PathHost {
  readonly host: LabHost;
  readonly process: LabProcess;
  /** Throws with the driver's words when it could not. */
  order<T = null>(order: PathOrder): Promise<T>;
  status(): Promise<PathStatus>;
}

/** Runs from the sources: the lab has to show its hosts the project's folder, and to have Bun in them. */
export async function startDriver(host: LabHost): Promise<PathHost> {
  const preload = join(ROOT_DIR, "scripts/preload.ts");
  const process = await host.spawn(["bun", "--preload", preload, join(ROOT_DIR, "test/lab/path-driver.program.ts")]);
  await process.waitForLine(/^ready$/, { timeoutMs: 20_000 });
  const order = async <T>(wanted: PathOrder): Promise<T> => {
    // The socket of the host, by its files: it belongs to no network.
    const unix = `/proc/${host.pid}/root${PATH_SOCKET}`;
    const response = await fetch("http://driver/", { unix, method: "POST", body: JSON.stringify(wanted) });
    const said = (await response.json()) as { ok: T } | { failed: string };
    if ("ok" in said) return said.ok;
    throw new Error(`Cannot ${wanted.do} on ${host.name}: ${said.failed}`);
  };
  return { host, process, order, status: () => order<PathStatus>({ do: "status" }) };
}
