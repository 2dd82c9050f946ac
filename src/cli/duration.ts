// Durations as people type them: `20s`, `5m`, `1h`, `7d`.
import { UsageError } from "../roles/config.ts";

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

const HOUR_MS = 3_600_000;
/** What `client up` and `client wait` may be told to wait. */
export const MOST_UP_MS = HOUR_MS;
export const MOST_WAIT_MS = 24 * HOUR_MS;

/** Milliseconds. Throws UsageError. A bare number is seconds. */
export function durationMs(text: string, mostMs: number = Number.MAX_SAFE_INTEGER): number {
  const match = /^(\d{1,9})(ms|s|m|h|d)?$/.exec(text);
  const ms = Number(match?.[1]) * (UNIT_MS[match?.[2] ?? "s"] ?? 1000);
  if (match === null || ms <= 0) {
    throw new UsageError(`Cannot use "${text}" as a duration.`, { code: "usage", remedy: "Examples: 20s, 5m, 1h, 7d" });
  }
  if (ms > mostMs) {
    throw new UsageError(`Cannot use "${text}" as a duration: it may be ${mostMs / HOUR_MS} h at most.`, {
      code: "usage",
    });
  }
  return ms;
}
