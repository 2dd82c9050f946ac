// What the server tells the one who runs it: its status, its machines and its sessions, in the fields that the command line promises.
import type { MachineName } from "../base/hostname.ts";
import type { IpAddress } from "../base/ip.ts";
import type { MachineId } from "../proto/keys.ts";
import type { Role } from "../proto/role.ts";
import type { Fleet } from "./fleet.ts";
import type { MachineUsage } from "./relay/meter.ts";

export interface ServerStatus {
  readonly version: string;
  readonly uptimeS: number;
  readonly machines: { readonly total: number; readonly online: number };
  readonly sessions: number;
  readonly relay: { readonly connections: number; readonly bytes: number; readonly kernel: boolean };
  readonly health: readonly {
    readonly code: string;
    readonly severity: "low" | "medium" | "high";
    readonly text: string;
    readonly remedy: string;
  }[];
}

export interface MachineSummary {
  readonly id: MachineId;
  readonly name: MachineName;
  readonly role: Role;
  readonly online: boolean;
  readonly tags: readonly string[];
  readonly ipv4: IpAddress;
  readonly ipv6: IpAddress;
  /** Not told to the server yet. */
  readonly natKind: null;
  readonly publicAddress: IpAddress | null;
  /** ISO 8601; null for never. */
  readonly lastSeen: string | null;
  readonly version: string;
  readonly platform: string;
  /** Null for a machine that offers no exit. */
  readonly exitReady: boolean | null;
  /** What the relays passed on for it, both ways, since the day or the month began (UTC). */
  readonly relayed: MachineUsage;
}

export function machineSummaries(fleet: Fleet): MachineSummary[] {
  return [...fleet.directory.all()]
    .map((machine) => {
      const presence = fleet.presence.of(machine.id);
      const seenAt = presence.online ? Date.now() : (presence.seenAt ?? machine.lastSeenAt);
      const { id, name, role, tags, ipv4, ipv6, version, platform } = machine;
      return {
        id,
        name,
        role,
        online: presence.online,
        tags,
        ipv4,
        ipv6,
        natKind: null,
        publicAddress: presence.address,
        lastSeen: seenAt === null ? null : new Date(seenAt).toISOString(),
        version,
        platform,
        exitReady: presence.exit?.ready ?? null,
        relayed: fleet.meter.usageOf(id),
      };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

export interface SessionSummary {
  readonly id: number;
  readonly kind: "wireguard";
  /** Who asked for it, then the other. */
  readonly machines: readonly [string, string];
  readonly since: string;
  /** By the UDP relay, both ways. */
  readonly udpBytes: number;
  /** Why no relay carries it now; null while they do. */
  readonly withheld: string | null;
  /** What each of the two sent through the WebSocket relay, in the same order. */
  readonly sent: readonly {
    readonly frames: number;
    readonly packets: number;
    readonly bytes: number;
    readonly dropped: number;
  }[];
}

export function sessionSummaries(fleet: Fleet): SessionSummary[] {
  const nameOf = (id: MachineId): string => fleet.directory.get(id)?.name ?? id;
  return [...fleet.sessions.all()].map((session) => ({
    id: session.id,
    kind: session.kind,
    machines: [nameOf(session.ends[0]), nameOf(session.ends[1])],
    since: new Date(session.startedAt).toISOString(),
    udpBytes: fleet.meter.of(session.id).udpBytes,
    withheld: fleet.meter.of(session.id).withheld?.text ?? null,
    sent: session.legs.map(({ frames, packets, bytes, dropped }) => ({ frames, packets, bytes, dropped })),
  }));
}

/** Whom the relays are withheld from, for whoever pays for the server's line. */
export function quotaHealth(fleet: Fleet): ServerStatus["health"] {
  const used = [...fleet.directory.all()].filter((machine) => fleet.meter.usageOf(machine.id).usedUp);
  return used.map(({ name }) => ({
    code: "relay-quota",
    severity: "low",
    text: `"${name}" has used up what it may have relayed; only direct paths carry its packets.`,
    remedy: "Start the server with a larger --relay-quota.",
  }));
}
