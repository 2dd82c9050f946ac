// Tests of what this process may do, and of what it is told to type when that is not enough.
import { describe, expect, test } from "bun:test";
import { hasNetAdmin, PrivilegeMissing, requireNetAdmin, requireTun, tunProblem } from "../../../src/net/privileges.ts";

describe("hasNetAdmin()", () => {
  const status = (effective: string): string =>
    `Name:\thiggs\nCapPrm:\t000001ffffffffff\nCapEff:\t${effective}\nCapBnd:\t0\n`;

  test("reads bit 12 of the effective set, and of no other", () => {
    expect(hasNetAdmin(status("000001ffffffffff"))).toBeTrue();
    expect(hasNetAdmin(status("0000000000001000"))).toBeTrue();
    expect(hasNetAdmin(status("0000000000000000"))).toBeFalse();
    expect(hasNetAdmin(status("000001ffffffefff"))).toBeFalse();
    expect(hasNetAdmin("")).toBeFalse();
  });
});

describe("requireNetAdmin()", () => {
  test("names the command to type", () => {
    expect(() => requireNetAdmin({ netAdmin: true, tunProblem: null }, "higgs node")).not.toThrow();
    try {
      requireNetAdmin({ netAdmin: false, tunProblem: null }, "higgs node");
      expect.unreachable();
    } catch (thrown) {
      expect(thrown).toMatchObject({ name: "PrivilegeMissing", code: "privilege-missing", remedy: "sudo higgs node" });
    }
  });
});

describe("tunProblem()", () => {
  test("tells a device that is not there", async () => {
    expect(await tunProblem("/dev/net/no-such-device")).toBe("absent");
    expect(await tunProblem("/dev/null")).toBeNull();
  });

  test("becomes an error with a remedy", () => {
    expect(() => requireTun(null)).not.toThrow();
    expect(() => requireTun("absent")).toThrow(PrivilegeMissing);
    expect(() => requireTun("refused")).toThrow("may not open");
  });
});
