// The API's bodies about metrics: what a machine reports of itself, and what is kept of it.
import { z } from "zod";
import { machineIdSchema } from "./api.ts";
import { percentSchema } from "./api-nodes.ts";

const counterSchema = z.int().min(0).max(Number.MAX_SAFE_INTEGER);
const latencySchema = z.number().min(0).max(60_000);
const megabitsSchema = z.number().min(0).max(1_000_000);

/** Latencies in milliseconds, usage in percent, bandwidth in Mbit/s; packets and bytes count up since the device was made. */
export const metricsSchema = z
  .object({
    network: z
      .object({
        latency: latencySchema,
        jitter: latencySchema,
        packetLoss: percentSchema,
        bandwidth: z.object({ up: megabitsSchema, down: megabitsSchema }),
      })
      .partial(),
    system: z
      .object({
        cpuUsage: percentSchema,
        memoryUsage: percentSchema,
        diskUsage: percentSchema,
        loadAverage: z.number().min(0).max(10_000),
      })
      .partial(),
    wireguard: z
      .object({
        packets: z.object({ sent: counterSchema, received: counterSchema, errors: counterSchema }).partial(),
        bytes: z.object({ sent: counterSchema, received: counterSchema }).partial(),
      })
      .partial(),
    connections: z.object({ active: counterSchema, total: counterSchema, failed: counterSchema }).partial(),
  })
  .partial();
export type Metrics = z.infer<typeof metricsSchema>;

/** POST /metrics. Whose they are is known by the token, and when they came by the server's clock. */
export const metricsReportSchema = z.object({ metrics: metricsSchema });
export const metricsAcceptedSchema = z.object({ status: z.literal("ok") });

export const latestMetricsSchema = z.object({ nodeId: machineIdSchema, timestamp: z.int(), metrics: metricsSchema });

/** Unix milliseconds; from 24 hours ago until now where they are left out. */
const timeSchema = z
  .string()
  .regex(/^\d{1,15}$/)
  .transform(Number);
export const metricsRangeSchema = z.object({ startTime: timeSchema.optional(), endTime: timeSchema.optional() });
export const intervalSchema = z.enum(["minute", "hour", "day"]);
export type Interval = z.infer<typeof intervalSchema>;
export const metricsHistoryQuerySchema = metricsRangeSchema.extend({ interval: intervalSchema.default("hour") });

const averageSchema = z.number().nullable();

/** Averages over one interval; bytes are what was added in it. Null where nothing was reported. */
export const metricsPointSchema = z.object({
  /** Start of the interval, Unix milliseconds. */
  timestamp: z.int(),
  samples: z.int(),
  latency: averageSchema,
  jitter: averageSchema,
  packetLoss: averageSchema,
  cpuUsage: averageSchema,
  memoryUsage: averageSchema,
  diskUsage: averageSchema,
  loadAverage: averageSchema,
  bytesSent: z.int(),
  bytesReceived: z.int(),
  /** The most that were there at once. */
  connections: z.int(),
});
export type MetricsPoint = z.infer<typeof metricsPointSchema>;

export const metricsHistorySchema = z.object({ metrics: z.array(metricsPointSchema), count: z.int() });

export const aggregatedMetricsSchema = z.object({
  avgLatency: averageSchema,
  avgJitter: averageSchema,
  avgPacketLoss: averageSchema,
  avgCpuUsage: averageSchema,
  avgMemoryUsage: averageSchema,
  totalBytesSent: z.int(),
  totalBytesReceived: z.int(),
});
export type AggregatedMetrics = z.infer<typeof aggregatedMetricsSchema>;
