// What processes of lab hosts hold, looked at again and again: memory and open files, and how fast the memory grows.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { LabHost } from "../../src/lab/host.ts";

export interface Holding {
  readonly pid: number;
  readonly atMs: number;
  /** Resident, and of that what belongs to the process alone. */
  readonly residentKiB: number;
  readonly ownKiB: number;
  readonly files: number;
}

/** Of the host's process whose command line begins so; null when there is none. Other labs on this machine have others. */
export function holdingOf(host: LabHost, argv: readonly string[]): Holding | null {
  const start = argv.map((argument) => `${argument}\0`).join("");
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith(start)) continue;
      if (readlinkSync(`/proc/${pid}/ns/net`) !== readlinkSync(`/proc/${host.pid}/ns/net`)) continue;
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const kibibytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1]);
      return {
        pid: Number(pid),
        atMs: performance.now(),
        residentKiB: kibibytes("VmRSS"),
        ownKiB: kibibytes("RssAnon"),
        files: readdirSync(`/proc/${pid}/fd`).length,
      };
    } catch {
      // over since it was listed
    }
  }
  return null;
}

export interface Growth {
  readonly minutes: number;
  /** By least squares, of what belongs to the process alone: of the whole time, and of its later half, in which a leak grows on. */
  readonly mebibytesPerHour: number;
  readonly laterPerHour: number;
  readonly first: Holding;
  readonly last: Holding;
}

/** Of the process that was there longest, without its first minutes, in which a runtime takes what it needs. Null where nothing is left. */
export function growthOf(samples: readonly Holding[], warmUpMs: number): Growth | null {
  let longest: readonly Holding[] = [];
  for (const same of Map.groupBy(samples, ({ pid }) => pid).values()) {
    const settled = same.filter(({ atMs }) => atMs - (same[0]?.atMs ?? 0) >= warmUpMs);
    if (spanMs(settled) > spanMs(longest)) longest = settled;
  }
  const [first, last] = [longest[0], longest.at(-1)];
  if (first === undefined || last === undefined || longest.length < 3) return null;
  const later = longest.slice(Math.floor(longest.length / 2));
  const minutes = spanMs(longest) / 60_000;
  return { minutes, mebibytesPerHour: slopeOf(longest), laterPerHour: slopeOf(later), first, last };
}

function slopeOf(samples: readonly Holding[]): number {
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const hours = samples.map(({ atMs }) => atMs / 3_600_000);
  const mebibytes = samples.map(({ ownKiB }) => ownKiB / 1024);
  const [middle, level] = [mean(hours), mean(mebibytes)];
  const above = hours.reduce((sum, hour, i) => sum + (hour - middle) * ((mebibytes[i] ?? level) - level), 0);
  return above / hours.reduce((sum, hour) => sum + (hour - middle) ** 2, 0);
}

function spanMs(samples: readonly Holding[]): number {
  return (samples.at(-1)?.atMs ?? 0) - (samples[0]?.atMs ?? 0);
}
