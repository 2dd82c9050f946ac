// The API's bodies about routes: which nodes a machine could go through, best first, and the one that was granted.
import { z } from "zod";
import { machineIdSchema } from "./api.ts";
import { sessionSchema } from "./control.ts";

/** POST /routing/request. Who asks is known by the token; latency in milliseconds, bandwidth in Mbit/s. */
export const routeRequestSchema = z.object({
  /** Only this node will do. */
  targetNodeId: machineIdSchema.nullable().optional(),
  /** A node that has said that it falls short of one of these is left out; one that has said nothing comes last. */
  requirements: z
    .object({
      maxLatency: z.number().positive().max(60_000),
      minBandwidth: z.number().positive().max(1_000_000),
    })
    .partial()
    .optional(),
});
export type RouteRequest = z.infer<typeof routeRequestSchema>;

export const routeSchema = z.object({
  id: z.uuid(),
  /** What the server can vouch for. The two machines climb to a direct path by themselves. */
  type: z.literal("relay"),
  path: z.array(machineIdSchema).length(1),
  estimatedLatency: z.number().nullable(),
  estimatedBandwidth: z.number().nullable(),
  cost: z.int(),
  /** 0 to 100, greater is better: what is left of the node. */
  priority: z.int().min(0).max(100),
});
export type Route = z.infer<typeof routeSchema>;

export const selectedRouteSchema = z.object({
  id: z.uuid(),
  nodeId: machineIdSchema,
  /** Path of the relay's WebSocket on the server that answers. */
  relayEndpoint: z.string(),
  session: sessionSchema,
  /** Unix milliseconds. */
  expiresAt: z.int(),
});
export type SelectedRoute = z.infer<typeof selectedRouteSchema>;

export const routeResponseSchema = z.object({
  routes: z.array(routeSchema),
  /** Null when no node will do. */
  selectedRoute: selectedRouteSchema.nullable(),
});
export type RouteResponse = z.infer<typeof routeResponseSchema>;
