// The tables as drizzle sees them; the SQL in migrations/ makes them, and a test compares the two.
import { integer, primaryKey, real, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type { MachineName } from "../../base/hostname.ts";
import type { Cidr, IpAddress } from "../../base/ip.ts";
import type { IdentityKey, MachineId, WireGuardKey } from "../../proto/keys.ts";
import type { Role } from "../../proto/role.ts";

/** Times are Unix milliseconds, but for `metrics.at`, which is in seconds. Lists are JSON texts. */
export const network = sqliteTable("network", {
  id: integer().primaryKey(),
  identity: text().$type<IdentityKey>().notNull(),
  range4: text().$type<Cidr>().notNull(),
  range6: text().$type<Cidr>().notNull(),
  nextHost: integer("next_host").notNull(),
  epoch: integer().notNull(),
  createdAt: integer("created_at").notNull(),
});

export const machines = sqliteTable("machines", {
  id: text().$type<MachineId>().primaryKey(),
  name: text().$type<MachineName>().notNull(),
  role: text().$type<Role>().notNull(),
  tags: text({ mode: "json" }).$type<readonly string[]>().notNull(),
  identity: text().$type<IdentityKey>().notNull(),
  wireGuard: text("wireguard").$type<WireGuardKey>().notNull(),
  host: integer().notNull(),
  ipv4: text().$type<IpAddress>().notNull(),
  ipv6: text().$type<IpAddress>().notNull(),
  version: text().notNull(),
  platform: text().notNull(),
  createdAt: integer("created_at").notNull(),
  lastSeenAt: integer("last_seen_at"),
  revokedAt: integer("revoked_at"),
});

export const records = sqliteTable("records", {
  machineId: text("machine_id").$type<MachineId>().primaryKey(),
  /** Unsigned 64 bits, as decimal text. */
  serial: text().notNull(),
  bytes: text().notNull(),
  signatures: text({ mode: "json" }).$type<readonly { key: string; signature: string }[]>().notNull(),
  receivedAt: integer("received_at").notNull(),
});

export const invites = sqliteTable("invites", {
  id: text().primaryKey(),
  secretSha256: text("secret_sha256").notNull(),
  role: text().$type<Role>().notNull(),
  name: text().$type<MachineName>(),
  tags: text({ mode: "json" }).$type<readonly string[]>().notNull(),
  maxUses: integer("max_uses").notNull(),
  used: integer().notNull().default(0),
  expiresAt: integer("expires_at").notNull(),
  revokedAt: integer("revoked_at"),
  createdAt: integer("created_at").notNull(),
});

export const enrolments = sqliteTable(
  "enrolments",
  {
    inviteId: text("invite_id").notNull(),
    identity: text().$type<IdentityKey>().notNull(),
    machineId: text("machine_id").$type<MachineId>().notNull(),
  },
  (table) => [primaryKey({ columns: [table.inviteId, table.identity] })],
);

export const metrics = sqliteTable(
  "metrics",
  {
    machineId: text("machine_id").$type<MachineId>().notNull(),
    /** 60 or 3600: what one row stands for. */
    spanS: integer("span_s").notNull(),
    /** Start of the span, Unix seconds. */
    at: integer().notNull(),
    samples: integer().notNull(),
    latency: real(),
    jitter: real(),
    packetLoss: real("packet_loss"),
    cpuUsage: real("cpu_usage"),
    memoryUsage: real("memory_usage"),
    diskUsage: real("disk_usage"),
    loadAverage: real("load_average"),
    bytesSent: integer("bytes_sent").notNull(),
    bytesReceived: integer("bytes_received").notNull(),
    connections: integer().notNull(),
  },
  (table) => [primaryKey({ columns: [table.machineId, table.spanS, table.at] })],
);

/** What was relayed for a machine on one day: what it sent, and what was sent to it. */
export const relayUsage = sqliteTable(
  "relay_usage",
  {
    machineId: text("machine_id").$type<MachineId>().notNull(),
    /** Days since 1970, UTC. */
    day: integer().notNull(),
    bytes: integer().notNull(),
  },
  (table) => [primaryKey({ columns: [table.machineId, table.day] })],
);

export const audit = sqliteTable("audit", {
  id: integer().primaryKey(),
  at: integer().notNull(),
  event: text().notNull(),
  machineId: text("machine_id").$type<MachineId>(),
  detail: text({ mode: "json" }).$type<Readonly<Record<string, unknown>>>().notNull(),
});
