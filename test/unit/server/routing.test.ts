import { describe, expect, test } from "bun:test";
import type { HeartbeatRequest } from "../../../src/proto/api-nodes.ts";
import { isDegraded, Loads } from "../../../src/server/load.ts";
import { defaultPolicy } from "../../../src/server/policy.ts";
import { Presence } from "../../../src/server/presence.ts";
import { type Candidate, priorityOf, rank } from "../../../src/server/routing.ts";
import type { IpAddress } from "../../../src/base/ip.ts";
import { machineId, machineOf } from "./values.ts";

function candidate(number: number, metrics: HeartbeatRequest["metrics"] | null, sessions = 0): Candidate {
  const load = metrics == null ? null : { at: 0, isDegraded: isDegraded({ metrics }), metrics };
  return { machine: machineOf(number, "node"), load, sessions };
}

function order(candidates: readonly Candidate[], requirements?: Parameters<typeof rank>[1]): number[] {
  return rank(candidates, requirements).map(({ machine }) => Number(machine.id.slice(-2)));
}

describe("rank()", () => {
  test("prefers the node with more left, then the nearer, then the name", () => {
    const busy = candidate(1, { cpuUsage: 80, latency: 1 });
    const far = candidate(2, { cpuUsage: 10, latency: 90 });
    const near = candidate(3, { cpuUsage: 10, latency: 10 });
    const silent = candidate(5, null, 10);
    const twin = candidate(4, null, 10);
    expect(order([busy, far, near, silent, twin])).toEqual([3, 2, 4, 5, 1]);
  });

  test("counts sessions as load", () => {
    expect(order([candidate(1, null, 3), candidate(2, null, 1), candidate(3, null, 2)])).toEqual([2, 3, 1]);
  });

  test("leaves out who has said that it falls short, and puts who has said nothing last", () => {
    const candidates = [
      candidate(1, { latency: 200, bandwidth: { up: 1, down: 100 } }),
      candidate(2, null),
      candidate(3, { latency: 20, bandwidth: { up: 50, down: 100 }, cpuUsage: 70 }),
    ];
    expect(order(candidates, { maxLatency: 100 })).toEqual([3, 2]);
    expect(order(candidates, { minBandwidth: 10 })).toEqual([3, 2]);
    expect(order(candidates, { minBandwidth: 51 })).toEqual([2]);
    expect(order([])).toEqual([]);
  });
});

test("priorityOf() is what is left, and little of a degraded node", () => {
  expect(priorityOf(candidate(1, {}))).toBe(100);
  expect(priorityOf(candidate(1, { memoryUsage: 30, cpuUsage: 20 }))).toBe(70);
  expect(priorityOf(candidate(1, { packetLoss: 20 }))).toBe(10);
  expect(priorityOf(candidate(1, null, 500))).toBe(0);
});

test("Loads.note() asks a node in trouble to come back sooner, and of() forgets what is old", () => {
  const loads = new Loads();
  expect(loads.note(machineId(1), { metrics: { cpuUsage: 91 } }, 0)).toBe(10);
  expect(loads.note(machineId(1), { status: "degraded" }, 0)).toBe(10);
  expect(loads.note(machineId(1), {}, 0)).toBe(30);
  expect(loads.of(machineId(1), 90_000)).not.toBeNull();
  expect(loads.of(machineId(1), 90_001)).toBeNull();
});

test("mayConnect() joins a node with a client in both directions, and nothing else", () => {
  const [node, other] = [machineOf(1, "node"), machineOf(2, "node")];
  const [client, laptop] = [machineOf(3, "client"), machineOf(4, "client")];
  expect(defaultPolicy.mayConnect(node, client)).toBe(true);
  expect(defaultPolicy.mayConnect(client, node)).toBe(true);
  expect(defaultPolicy.mayConnect(node, other)).toBe(false);
  expect(defaultPolicy.mayConnect(client, laptop)).toBe(false);
  expect(defaultPolicy.mayConnect(node, node)).toBe(false);
});

test("Presence says what others would see change", () => {
  const presence = new Presence();
  const id = machineId(1);
  const address = "203.0.113.5" as IpAddress;
  expect(presence.arrived(id, address)).toBe(true);
  expect(presence.arrived(id, address)).toBe(false);
  expect(presence.arrived(id, "203.0.113.6" as IpAddress)).toBe(true);
  expect(presence.online).toBe(1);
  expect(presence.setExit(id, { ready: true, ipv6: false, missing: [] })).toBe(true);
  expect(presence.setExit(id, { ready: true, ipv6: false, missing: [] })).toBe(false);
  expect(presence.left(id)).toBe(true);
  expect(presence.left(id)).toBe(false);
  expect(presence.of(id)).toMatchObject({ online: false, address: "203.0.113.6", exit: { ready: false } });
  presence.forget(id);
  expect([presence.online, presence.of(id).address]).toEqual([0, null]);
});
