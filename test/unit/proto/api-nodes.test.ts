import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { z } from "zod";
import {
  clientsResponseSchema,
  healthResponseSchema,
  heartbeatRequestSchema,
  heartbeatResponseSchema,
  nodesResponseSchema,
} from "../../../src/proto/api-nodes.ts";
import { type Json, optionalFields, withValue, wrongKindsAccepted } from "../support/json.ts";
import { check } from "../support/property.ts";

const MACHINE: Json = {
  id: "01234567-89ab-cdef-0123-456789abcdef",
  name: "home",
  role: "node",
  tags: ["attic"],
  ipv4: "10.64.0.2",
  ipv6: "fd00:1:2::2",
  online: true,
  status: "degraded",
  publicAddress: "203.0.113.7",
  exit: { ready: true, ipv6: false, missing: [] },
  version: "0.1.0",
  lastSeenAt: 1_700_000_000_000,
};
const HEARTBEAT: Json = {
  metrics: {
    latency: 12.5,
    jitter: 0,
    packetLoss: 100,
    cpuUsage: 3.5,
    memoryUsage: 40,
    activeConnections: 7,
    bandwidth: { up: 20, down: 100 },
  },
  status: "online",
};

describe("answers about machines", () => {
  const answers: [string, z.ZodType, Json][] = [
    ["nodesResponseSchema", nodesResponseSchema, { nodes: [MACHINE], count: 1 }],
    ["clientsResponseSchema", clientsResponseSchema, { clients: [MACHINE], count: 1 }],
    ["heartbeatResponseSchema", heartbeatResponseSchema, { status: "ok", nextHeartbeat: 30, actions: [] }],
    [
      "healthResponseSchema",
      healthResponseSchema,
      {
        status: "healthy",
        timestamp: "2026-01-01T00:00:00.000Z",
        uptime: 5,
        services: {
          database: { status: "healthy", latency: 0.5 },
          stun: { status: "off" },
          relay: { status: "unhealthy" },
        },
      },
    ],
  ];
  for (const [name, schema, body] of answers) {
    test(`${name} accepts its body, requires every field and leaves out unknown ones`, () => {
      expect(schema.parse(withValue(body, ["later"], 1))).toEqual(body);
      expect(optionalFields(schema, body)).toEqual([]);
    });
  }

  test("nodesResponseSchema refuses a value of another kind in every place but a nullable one and the version", () => {
    const nullable = ["nodes.0.publicAddress", "nodes.0.exit", "nodes.0.lastSeenAt"];
    const accepted = wrongKindsAccepted(nodesResponseSchema, { nodes: [MACHINE], count: 1 }, nullable);
    expect(accepted.filter((place) => !place.startsWith('nodes.0.version: "'))).toEqual([]);
  });
});

describe("heartbeatRequestSchema", () => {
  test("heartbeatRequestSchema accepts all figures, some, or none", () => {
    for (const body of [HEARTBEAT, { metrics: { latency: 1 } }, { status: "offline" }, {}]) {
      expect(heartbeatRequestSchema.parse(body)).toEqual(body as z.infer<typeof heartbeatRequestSchema>);
    }
  });

  test("heartbeatRequestSchema refuses figures that cannot be", () => {
    const wrong: [readonly string[], Json][] = [
      [["metrics", "latency"], -1],
      [["metrics", "packetLoss"], 100.1],
      [["metrics", "cpuUsage"], "50"],
      [["metrics", "activeConnections"], 1.5],
      [["metrics", "activeConnections"], 1e9],
      [["metrics", "bandwidth"], { up: 1 }],
      [["metrics", "bandwidth", "down"], 1e12],
      [["status"], "asleep"],
    ];
    for (const [path, value] of wrong) {
      const { success } = heartbeatRequestSchema.safeParse(withValue(HEARTBEAT, path, value));
      expect({ path, value, success }).toEqual({ path, value, success: false });
    }
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(heartbeatRequestSchema.safeParse({ metrics: { latency: value } }).success).toBe(false);
    }
  });

  test("heartbeatRequestSchema never throws, and what it accepts it accepts again", () => {
    check(
      fc.property(fc.oneof(fc.jsonValue(), fc.record({ metrics: fc.jsonValue(), status: fc.jsonValue() })), (value) => {
        const parsed = heartbeatRequestSchema.safeParse(value);
        if (parsed.success) expect(heartbeatRequestSchema.parse(parsed.data)).toEqual(parsed.data);
      }),
    );
  });
});
