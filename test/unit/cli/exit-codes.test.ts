import { expect, test } from "bun:test";
import { EXIT, exitCodeOf } from "../../../src/cli/exit-codes.ts";
import { UsageError } from "../../../src/roles/config.ts";

const coded = (code: string) => new UsageError("Cannot do it.", { code });

test("EXIT is the contract with scripts", () => {
  expect(EXIT).toEqual({
    done: 0,
    failed: 1,
    usage: 2,
    notRunning: 3,
    notEnrolled: 4,
    notConnected: 5,
    degraded: 6,
    refused: 7,
    timedOut: 8,
    missing: 9,
    blocked: 10,
    interrupted: 130,
  });
});

test("exitCodeOf() tells scripts what kind of failure it was", () => {
  for (const [code, exit] of [
    ["usage", 2],
    ["bad-setting", 2],
    ["bad-name", 2],
    ["bad-exit", 2],
    ["bad-dns", 2],
    ["invite-mistyped", 2],
    ["invite-version", 2],
    ["wrong-role", 2],
    ["invite-wrong-role", 2],
    ["not-running", 3],
    ["not-enrolled", 4],
    ["invite-used", 4],
    ["invite-expired", 4],
    ["invite-unknown", 4],
    ["machine-revoked", 4],
    ["machine-unknown", 4],
    ["not-connected", 5],
    ["no-exit", 5],
    ["server-unreachable", 5],
    ["offline", 5],
    ["policy-refused", 7],
    ["timeout", 8],
    ["tool-timeout", 8],
    ["privilege-missing", 9],
    ["run-dir-refused", 9],
    ["file-not-writable", 9],
    ["tool-missing", 9],
    ["wireguard-unavailable", 9],
    ["tun-missing", 9],
    ["interrupted", 130],
  ] as const) {
    expect([code, exitCodeOf(coded(code))]).toEqual([code, exit]);
  }
});

test("exitCodeOf() is 1 for everything else, whatever it is", () => {
  for (const thrown of [
    coded("something-new"),
    coded("toString"),
    coded("__proto__"),
    new Error("x"),
    "x",
    null,
    undefined,
    7,
  ]) {
    expect(exitCodeOf(thrown)).toBe(1);
  }
});
