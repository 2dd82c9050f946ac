// What `higgs client status` and `higgs client exit list` show.
import { offersExit, termsOf } from "../client/exit-choice.ts";
import { ConnectError, type Connection } from "../client/connection.ts";
import type { KeptLockdown } from "../net/lockdown-file.ts";
import type { ClientSystem } from "../net/system.ts";
import { implementationText } from "../net/wg/device.ts";
import { type Endpoint, formatEndpoint } from "../base/ip.ts";
import type { KnownPeer } from "../peer/netmap.ts";
import type { EnrolmentStore } from "../peer/enrolment.ts";
import { TUNNEL_MTU } from "../peer/tunnel.ts";
import { type HealthEntry, healthOf, membershipHealth, firewallHealth, platformHealth, relayHealth } from "./health.ts";
import { LOCKDOWN_OFF } from "./lockdown.ts";
import { namesHealth } from "./names-health.ts";
import { isoOf } from "./node-status.ts";
import { portMappingOf } from "./port-mapping-status.ts";
import { VERSION } from "./version.ts";

export interface ClientView {
  readonly os: ClientSystem;
  readonly store: EnrolmentStore;
  readonly connection: Connection | null;
  readonly startedAt: Date;
  readonly lockdown: { readonly current: KeptLockdown };
}

export async function clientStatus(view: ClientView, signal: AbortSignal) {
  const { connection, store } = view;
  const lockdown = view.lockdown.current;
  const state = connection?.state ?? { kind: lockdown.lockdown ? ("blocked" as const) : ("disconnected" as const) };
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
    path: exit === null ? null : pathOf(connection, exit, state.kind === "connected" ? state.sinceMs : null),
    traffic: {
      rxBytes: stat?.rxBytes ?? 0,
      txBytes: stat?.txBytes ?? 0,
      lastHandshake: isoOf(stat?.lastHandshakeMs ?? null),
    },
    sharing: connection?.paths?.mechanism ?? null,
    portMapping: portMappingOf(connection?.paths ?? null),
    lockdown: lockdown.lockdown,
    lan: lockdown.lan,
    paranoid: lockdown.paranoid,
    startedAt: view.startedAt.toISOString(),
    health: [
      ...lockdownHealth(lockdown, connection),
      ...clientHealth(connection),
      ...(await namesOf(view, signal)),
      ...firewallHealth(view.os, WITHOUT_FIREWALL),
      ...platformHealth(),
    ],
  };
}

function pathOf(connection: Connection | null, exit: KnownPeer, connectedMs: number | null) {
  const view = connection?.paths?.view(exit.id) ?? null;
  if (view !== null && view.kind !== "wss") {
    const { kind, endpoint, sinceMs, rttMs, reason } = view;
    return { kind, endpoint: endpointText(endpoint), since: isoOf(sinceMs), rttMs: roundedMs(rttMs), reason };
  }
  const carrier = endpointText(connection?.membership.carriers()[0] ?? null);
  const reason = view?.reason ?? "no other path may be used, or the server helps to none";
  return { kind: "wss" as const, endpoint: carrier, since: isoOf(connectedMs), rttMs: null, reason };
}

const WITHOUT_FIREWALL =
  "what a program binds to another interface passes beside the tunnel, packets from neighbours to the tunnel's addresses are not dropped, and higgs itself passes every packet of a direct path on, which costs speed";

function endpointText(endpoint: Endpoint | null): string | null {
  return endpoint === null ? null : formatEndpoint(endpoint);
}

function roundedMs(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms * 100) / 100;
}

/** Why there is no internet where the kill switch closes it, and how to get it back. */
function lockdownHealth(lockdown: KeptLockdown, connection: Connection | null): HealthEntry[] {
  const entries: HealthEntry[] = lockdown.damage === null ? [] : [damagedHealth(lockdown.damage)];
  if (!lockdown.lockdown || connection?.state.kind === "connected") return entries;
  entries.push(blockedHealth(connection !== null));
  if (connection !== null && !connection.membership.control.online) {
    entries.push({
      code: "portal-blocked",
      severity: "low",
      text: "If this network wants you to sign in on a web page first, that page is closed too.",
      remedy: `${LOCKDOWN_OFF}; sign in; then: sudo higgs client up --lockdown`,
    });
  }
  return entries;
}

export function blockedHealth(isConnecting: boolean): HealthEntry {
  return {
    code: "blocked",
    severity: "high",
    text: `No internet: the kill switch is on, and this machine is ${isConnecting ? "not connected yet" : "not connected"}.`,
    remedy: isConnecting ? LOCKDOWN_OFF : `sudo higgs client up, or: ${LOCKDOWN_OFF}`,
  };
}

export function damagedHealth(why: string): HealthEntry {
  return {
    code: "lockdown-damaged",
    severity: "high",
    text: `The kill switch counts as on, as its file cannot be read: ${why}.`,
    remedy: LOCKDOWN_OFF,
  };
}

/** A connected client whose exit cannot be reached is degraded: traffic waits in the tunnel, and nothing leaks. */
function clientHealth(connection: Connection | null): HealthEntry[] {
  if (connection === null) return [];
  const entries = [...membershipHealth(connection.membership), ...withheldRelays(connection)];
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

/** The servers of a file that somebody else wrote, where they are closed. */
async function namesOf({ os, connection, lockdown }: ClientView, signal: AbortSignal): Promise<HealthEntry[]> {
  if (connection?.exit == null || connection.state.kind !== "connected") return [];
  const servers = await os.systemDns.foreign({ servers: connection.exit.machine.addresses });
  if (servers === null) return [];
  return namesHealth(servers, { lan: lockdown.current.lan, networks: await os.localNetworks(signal) });
}

function withheldRelays({ membership, paths }: Connection): HealthEntry[] {
  return relayHealth(membership, (peer) => paths?.view(peer)?.kind ?? "wss");
}

/** What to say to a person who waited in vain; null when the server's relays are open. */
export function relayWithheld(connection: Connection): ConnectError | null {
  const [entry] = withheldRelays(connection);
  if (entry === undefined) return null;
  const { code, text, remedy } = entry;
  return new ConnectError(`Cannot connect. ${text}`, { code, ...(remedy === null ? {} : { remedy }) });
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
      /** As the node itself signed it; null from one of an earlier version. */
      policy: termsOf(peer),
    }));
}
