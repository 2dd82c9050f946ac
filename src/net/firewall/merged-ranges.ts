// Ranges of ports in order, and none within another or beside it: what nft insists on, and a short list for iptables.
import type { PortRange } from "../../proto/exit-terms.ts";

export function mergedRanges(ranges: readonly PortRange[]): readonly Pick<PortRange, "first" | "last">[] {
  const all: { first: number; last: number }[] = [];
  for (const { first, last } of ranges.toSorted((a, b) => a.first - b.first)) {
    const before = all.at(-1);
    if (before !== undefined && first <= before.last + 1) before.last = Math.max(before.last, last);
    else all.push({ first, last });
  }
  return all;
}
