// What `higgs client status` and `higgs client exit list` show.
import { offersExit } from "../client/exit-choice.ts";
import type { Connection } from "../client/connection.ts";
import type { MachineSystem } from "../net/os.ts";
import { implementationText } from "../net/wg/device.ts";
import type { EnrolmentStore } from "../peer/enrolment.ts";
import { TUNNEL_MTU } from "../peer/tunnel.ts";
import { type HealthEntry, healthOf, membershipHealth } from "./health.ts";
import { isoOf } from "./node-status.ts";
import { VERSION } from "./version.ts";

export interface ClientView {
  readonly os: MachineSystem;
  readonly store: EnrolmentStore;
  readonly connection: Connection | null;
  readonly startedAt: Date;
}

export async function clientStatus(view: ClientView, signal: AbortSignal) {
  const { connection, store } = view;
  const state = connection?.state ?? { kind: "disconnected" as const };
  const exit = connection?.exit ?? null;
  // A device that is gone has none; it is being made anew, or the health says why not.
  const stats = connection === null ? [] : await connection.stats(signal).catch(() => []);
  const stat = stats.find((one) => one.publicKey === exit?.machine.wireGuard);
  return {
    schema: "higgs.client-status/1",
    version: VERSION,
    state: state.kind,
    name: store.value.name,
    exit: exit === null ? null : { name: exit.name, publicAddress: exit.publicAddress, ipv6: exit.exit?.ipv6 ?? false },
    tunnel: {
      interface: view.os.identifiers.interface,
      ipv4: store.value.ipv4,
      ipv6: store.value.ipv6,
      mtu: TUNNEL_MTU,
      implementation: implementationText(view.os.wireGuard.implementation()),
    },
    path: exit === null ? null : pathOf(connection, state.kind === "connected" ? state.sinceMs : null),
    traffic: {
      rxBytes: stat?.rxBytes ?? 0,
      txBytes: stat?.txBytes ?? 0,
      lastHandshake: isoOf(stat?.lastHandshakeMs ?? null),
    },
    lockdown: false,
    startedAt: view.startedAt.toISOString(),
    health: clientHealth(connection),
  };
}

function pathOf(connection: Connection | null, sinceMs: number | null) {
  const carrier = connection?.membership.carriers()[0];
  const endpoint = carrier === undefined ? null : `${carrier.address}:${carrier.port}`;
  return { kind: "wss", endpoint, since: isoOf(sinceMs), rttMs: null };
}

/** A connected client whose exit cannot be reached is degraded: traffic waits in the tunnel, and nothing leaks. */
function clientHealth(connection: Connection | null): HealthEntry[] {
  if (connection === null) return [];
  const entries = membershipHealth(connection.membership);
  const { trouble, exit } = connection;
  if (trouble !== null && entries.every((entry) => entry.code !== trouble.code)) {
    entries.push(healthOf(trouble, connection.state.kind === "connected" ? "high" : "medium"));
  }
  if (exit !== null && connection.state.kind === "connected") {
    const now = connection.membership.map.get(exit.id);
    if (now === undefined || !now.online) {
      entries.push({
        code: "exit-offline",
        severity: "high",
        text: `The exit "${exit.name}" is offline; traffic waits for it, and none leaves by another way.`,
        remedy: "higgs client exit use NAME, or higgs client down",
      });
    }
  }
  return entries;
}

export function exitRows(connection: Connection | null) {
  if (connection === null) return [];
  return connection.membership.map
    .peers()
    .filter((peer) => offersExit(peer))
    .map((peer) => ({
      name: peer.name,
      online: peer.online,
      ready: peer.exit?.ready ?? false,
      ipv6: peer.exit?.ipv6 ?? false,
      publicAddress: peer.publicAddress,
      inUse: connection.exit?.id === peer.id,
      missing: peer.exit?.missing ?? [],
    }));
}
