// How much each machine may have relayed, in which span of time: as it is typed, as it is said, and when a span begins and ends. Pure.
//
//   50GB/month   SIZE is bytes with kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024); the span is day or month
//
// Days and months are those of UTC, so that every machine of the network reads the same.

export type QuotaPeriod = "day" | "month";

export interface Quota {
  readonly limitBytes: number;
  readonly period: QuotaPeriod;
}

const UNITS: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  tib: 1024 ** 4,
};
/** Below it, not even the handshakes of a day would fit. */
const LEAST_BYTES = 100_000;
const DAY_MS = 86_400_000;

/** Null for what is none. */
export function parseQuota(text: string): Quota | null {
  const [, size = "", unit = "", period] = /^(\d{1,9}(?:\.\d{1,6})?) ?([kmgt]?i?b)\/(day|month)$/i.exec(text) ?? [];
  const factor = UNITS[unit.toLowerCase()];
  if (factor === undefined || period === undefined) return null;
  const limitBytes = Math.floor(Number(size) * factor);
  if (limitBytes < LEAST_BYTES || !Number.isSafeInteger(limitBytes)) return null;
  return { limitBytes, period: period.toLowerCase() === "day" ? "day" : "month" };
}

/** `50 GB`: in the largest unit of a thousand that leaves no more than three decimals, for sentences. */
export function quotaSize({ limitBytes }: Quota): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = limitBytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${Number(value.toFixed(3))} ${units[unit]}`;
}

/** Days since 1970. */
export function dayOf(nowMs: number): number {
  return Math.floor(nowMs / DAY_MS);
}

export interface Span {
  readonly firstDay: number;
  /** Unix milliseconds: when the next one begins, and every machine has its whole quota again. */
  readonly endMs: number;
}

export function spanOf(period: QuotaPeriod, nowMs: number): Span {
  const day = dayOf(nowMs);
  if (period === "day") return { firstDay: day, endMs: (day + 1) * DAY_MS };
  const now = new Date(nowMs);
  const [year, month] = [now.getUTCFullYear(), now.getUTCMonth()];
  return { firstDay: dayOf(Date.UTC(year, month)), endMs: Date.UTC(year, month + 1) };
}
