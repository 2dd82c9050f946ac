// The datagrams to the service manager.
import { describe, expect, test } from "bun:test";
import { notifier, socketAddress } from "../../../../src/net/systemd/notify.ts";
import { watchdogMs } from "../../../../src/roles/runtime.ts";

describe("socketAddress()", () => {
  test("is a family and a path that ends in a zero", () => {
    expect([...(socketAddress("/run/n") ?? [])]).toEqual([1, 0, ...new TextEncoder().encode("/run/n"), 0]);
  });

  test("begins with a zero in the abstract name space, and has none at its end", () => {
    expect([...(socketAddress("@ab") ?? [])]).toEqual([1, 0, 0, 97, 98]);
  });

  for (const path of ["", "relative", "vsock:2:1", `/${"a".repeat(107)}`]) {
    test(`refuses ${JSON.stringify(path.slice(0, 12))}`, () => expect(socketAddress(path)).toBeNull());
  }
});

test("notifier() is null where nobody waits for a word", async () => {
  expect(await notifier(undefined)).toBeNull();
});

test("notifier() says false where nobody listens", async () => {
  expect((await notifier("/nonexistent/notify"))?.("READY=1")).toBe(false);
});

test("watchdogMs() is a third of the limit, and nothing for another process", () => {
  expect(watchdogMs({ WATCHDOG_USEC: "30000000", WATCHDOG_PID: String(process.pid) })).toBe(10_000);
  expect(watchdogMs({ WATCHDOG_USEC: "30000000" })).toBe(10_000);
  expect(watchdogMs({ WATCHDOG_USEC: "30000000", WATCHDOG_PID: "1" })).toBeNull();
  for (const limit of ["", "0", "soon", "-1"]) expect(watchdogMs({ WATCHDOG_USEC: limit })).toBeNull();
  expect(watchdogMs({})).toBeNull();
});
