import { describe, expect, test } from "bun:test";
import type { MachineName } from "../../../src/base/hostname.ts";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import type { MachineRecord, SignedRecord } from "../../../src/proto/record.ts";
import { checkRecord } from "../../../src/server/record-check.ts";
import { MACHINE_KEY, NETWORK_KEY, STRANGER_SECRET } from "../support/keys.ts";
import { machineOf, OTHER_NETWORK, OTHER_WIREGUARD, recordFor, withRecord } from "./values.ts";

const NODE = machineOf(7, "node");
const options = { network: NETWORK_KEY, nowMs: 1_000_000_000_000 };

function codeOf(task: () => unknown): string {
  try {
    task();
    return "accepted";
  } catch (thrown) {
    return thrown instanceof Error && "code" in thrown ? String(thrown.code) : String(thrown);
  }
}

describe("checkRecord()", () => {
  test("accepts a machine's first record, and one with a higher serial and a new WireGuard key", () => {
    expect(checkRecord(NODE, recordFor(NODE, 1n), options)?.serial).toBe(1n);
    const known = withRecord(NODE, 5n);
    expect(checkRecord(known, recordFor(NODE, 6n, { wireGuard: OTHER_WIREGUARD }), options)?.wireGuard).toBe(
      OTHER_WIREGUARD,
    );
  });

  test("says null to the record that it holds already", () => {
    const known = withRecord(NODE, 5n);
    expect(checkRecord(known, recordFor(NODE, 5n), options)).toBeNull();
  });

  test.each<[string, bigint, Partial<MachineRecord>, string]>([
    ["another network", 1n, { network: OTHER_NETWORK }, "record-mismatch"],
    ["another name", 1n, { name: "other" as MachineName }, "record-mismatch"],
    ["another role", 1n, { role: "client", routes: [] }, "record-mismatch"],
    ["another address", 1n, { addresses: ["10.77.0.8", "fd00::7"] as IpAddress[] }, "record-mismatch"],
    ["one address too few", 1n, { addresses: ["10.77.0.7"] as IpAddress[] }, "record-mismatch"],
    [
      "one address too many",
      1n,
      { addresses: ["10.77.0.7", "fd00::7", "10.77.0.8"] as IpAddress[] },
      "record-mismatch",
    ],
    ["serial 0", 0n, {}, "record-mismatch"],
    ["a serial beyond SQLite's numbers", 1n << 63n, {}, "record-mismatch"],
    ["a time that is over", 1n, { notAfter: 999_999_999n }, "record-expired"],
    [
      "too many routes",
      1n,
      { routes: Array.from({ length: 65 }, (_, i) => `10.${i}.0.0/16` as Cidr) },
      "record-mismatch",
    ],
  ])("refuses a record with %s", (_what, serial, change, code) => {
    expect(codeOf(() => checkRecord(NODE, recordFor(NODE, serial, change), options))).toBe(code);
  });

  test("takes a record through the last second of its time, as machines do: the server ended it a fraction earlier", () => {
    const last = recordFor(NODE, 1n, { notAfter: 1_000_000_000n });
    expect(codeOf(() => checkRecord(NODE, last, { ...options, nowMs: 1_000_000_000_999 }))).toBe("accepted");
    expect(codeOf(() => checkRecord(NODE, last, { ...options, nowMs: 1_000_000_001_000 }))).toBe("record-expired");
  });

  test("refuses another identity's record, sound as it may be", () => {
    expect(codeOf(() => checkRecord(NODE, recordFor(NODE, 1n, {}, STRANGER_SECRET), options))).toBe("record-mismatch");
  });

  test("refuses a record that names the machine but was signed by another", () => {
    const forged = recordFor(NODE, 1n, { identity: MACHINE_KEY }, STRANGER_SECRET);
    expect(codeOf(() => checkRecord(NODE, forged, options))).toBe("record-signature");
  });

  test("refuses an equal or lower serial with other content", () => {
    const known = withRecord(NODE, 5n);
    for (const serial of [5n, 4n]) {
      expect(codeOf(() => checkRecord(known, recordFor(NODE, serial, { wireGuard: OTHER_WIREGUARD }), options))).toBe(
        "record-stale",
      );
    }
  });

  test("refuses routes from a client", () => {
    const client = machineOf(8, "client");
    const wide = recordFor(client, 1n, { routes: ["0.0.0.0/0"] as Cidr[] });
    expect(codeOf(() => checkRecord(client, wide, options))).toBe("record-mismatch");
  });

  test("refuses bytes that are no record", () => {
    const bad: SignedRecord = { bytes: "AAAA", signatures: [{ key: MACHINE_KEY, signature: "x" }] };
    expect(codeOf(() => checkRecord(NODE, bad, options))).toBe("record-malformed");
  });
});
