// The API's bodies about machines: lists of nodes and clients, heartbeats, and the server's own health.
import { z } from "zod";
import { ipAddressSchema, machineIdSchema, machineNameSchema, roleSchema, tagSchema } from "./api.ts";
import { exitStateSchema } from "./control.ts";

/** A share of something, in percent. */
export const percentSchema = z.number().min(0).max(100);

/** One machine as another one may see it. Times are Unix milliseconds. */
export const machineSchema = z.object({
  id: machineIdSchema,
  name: machineNameSchema,
  role: roleSchema,
  tags: z.array(tagSchema),
  ipv4: ipAddressSchema,
  ipv6: ipAddressSchema,
  online: z.boolean(),
  /** `degraded`: the node itself says that it has more than it can do. */
  status: z.enum(["online", "degraded", "offline"]),
  publicAddress: ipAddressSchema.nullable(),
  exit: exitStateSchema.nullable(),
  version: z.string(),
  lastSeenAt: z.int().nullable(),
});
export type MachineView = z.infer<typeof machineSchema>;

export const nodesResponseSchema = z.object({ nodes: z.array(machineSchema), count: z.int() });
export const clientsResponseSchema = z.object({ clients: z.array(machineSchema), count: z.int() });

/** POST /nodes/{id}/heartbeat: the node's own figures; bandwidth in Mbit/s, times in milliseconds. */
export const heartbeatRequestSchema = z.object({
  metrics: z
    .object({
      latency: z.number().min(0).max(60_000),
      jitter: z.number().min(0).max(60_000),
      packetLoss: percentSchema,
      cpuUsage: percentSchema,
      memoryUsage: percentSchema,
      activeConnections: z.int().min(0).max(1_000_000),
      bandwidth: z.object({ up: z.number().min(0).max(1_000_000), down: z.number().min(0).max(1_000_000) }),
    })
    .partial()
    .optional(),
  status: z.enum(["online", "degraded", "offline"]).optional(),
});
export type HeartbeatRequest = z.infer<typeof heartbeatRequestSchema>;

export const heartbeatResponseSchema = z.object({
  status: z.literal("ok"),
  /** Seconds. */
  nextHeartbeat: z.int(),
  /** What the server would like the node to do; none so far. */
  actions: z.array(z.object({ type: z.string(), payload: z.unknown() })).max(16),
});

const serviceStateSchema = z.enum(["healthy", "unhealthy", "off"]);

export const healthResponseSchema = z.object({
  status: z.enum(["healthy", "unhealthy"]),
  timestamp: z.string(),
  /** Seconds. */
  uptime: z.int(),
  services: z.object({
    database: z.object({ status: serviceStateSchema, latency: z.number() }),
    stun: z.object({ status: serviceStateSchema }),
    relay: z.object({ status: serviceStateSchema }),
  }),
});
export type HealthResponse = z.infer<typeof healthResponseSchema>;
export const readyResponseSchema = z.object({ status: z.literal("ready") });
export const aliveResponseSchema = z.object({ status: z.literal("alive"), uptime: z.int() });
