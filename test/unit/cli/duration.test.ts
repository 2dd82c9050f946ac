import { expect, test } from "bun:test";
import { durationMs, MOST_UP_MS } from "../../../src/cli/duration.ts";
import { UsageError } from "../../../src/roles/config.ts";

test("durationMs() reads what people type", () => {
  for (const [text, ms] of [
    ["20", 20_000],
    ["20s", 20_000],
    ["5m", 300_000],
    ["1h", 3_600_000],
    ["7d", 604_800_000],
    ["250ms", 250],
  ] as const) {
    expect(durationMs(text)).toBe(ms);
  }
});

test("durationMs() refuses everything else, and shows it", () => {
  for (const text of ["", "0", "0s", "-1s", "1.5h", "1 h", "h", "1w", "1e3", "٣s", "1s ", "9999999999s"]) {
    try {
      durationMs(text);
      throw new Error(`"${text}" was taken`);
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(UsageError);
      expect(thrown).toMatchObject({ code: "usage" });
      expect(String(thrown)).toContain(`"${text}"`);
    }
  }
});

test("durationMs() says how long it may be at most", () => {
  expect(durationMs("1h", MOST_UP_MS)).toBe(3_600_000);
  expect(() => durationMs("61m", MOST_UP_MS)).toThrow('Cannot use "61m" as a duration: it may be 1 h at most.');
});
