import { describe, expect, test } from "bun:test";
import { growth, Minute } from "../../../src/server/metrics/minute.ts";

describe("Minute", () => {
  test("averages what was reported and leaves out what was not", () => {
    const minute = new Minute(60);
    minute.add({ network: { latency: 10 }, system: { cpuUsage: 50 } }, null);
    minute.add({ network: { latency: 30, packetLoss: 1 } }, null);
    expect(minute.row()).toMatchObject({ at: 60, samples: 2, latency: 20, cpuUsage: 50, packetLoss: 1, jitter: null });
  });

  test("keeps what counters grew by, and the most connections at once", () => {
    const minute = new Minute(0);
    const first = { wireguard: { bytes: { sent: 1000, received: 50 } }, connections: { active: 3 } };
    const second = { wireguard: { bytes: { sent: 1500, received: 20 } }, connections: { active: 2 } };
    minute.add(first, null);
    minute.add(second, first);
    expect(minute.row()).toMatchObject({ bytesSent: 500, bytesReceived: 20, connections: 3 });
  });
});

test("growth() takes a counter that went back for one that was started anew", () => {
  expect([growth(undefined, 5), growth(5, undefined), growth(5, 9), growth(9, 5), growth(5, 5)]).toEqual([
    0, 0, 4, 5, 0,
  ]);
});
