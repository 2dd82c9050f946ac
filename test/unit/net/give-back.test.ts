import { readFileSync, realpathSync } from "node:fs";
import { expect, test } from "bun:test";
import { cleanRanges, giveBackMemory } from "../../../src/net/give-back.ts";

const SMAPS = `00200000-01a39000 r--p 00000000 fe:00 869368                             /usr/local/bin/higgs
Size:              24804 kB
Rss:                6692 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
01a40000-0684a000 r-xp 01838000 fe:00 869368                             /usr/local/bin/higgs
Size:              79912 kB
Anonymous:             0 kB
0684a000-0685f000 rw-p 06641000 fe:00 869368                             /usr/local/bin/higgs
Size:                 84 kB
Anonymous:             0 kB
0685f000-06867000 r--p 06656000 fe:00 869368                             /usr/local/bin/higgs
Size:                 32 kB
Anonymous:            12 kB
514e0c00000-51520c00000 rw-p 00000000 00:00 0 
Anonymous:         25472 kB
7f9fbb96a000-7f9fbbac0000 r-xp 00026000 fe:00 326269                     /usr/lib/x86_64-linux-gnu/libc.so.6
Anonymous:             0 kB
`;

test("cleanRanges() takes what is the executable's and was never written: no data, no relocations, no library", () => {
  expect(cleanRanges(SMAPS, "/usr/local/bin/higgs")).toEqual([
    { start: 0x200000, bytes: 0x1a39000 - 0x200000 },
    { start: 0x1a40000, bytes: 0x684a000 - 0x1a40000 },
  ]);
  expect(cleanRanges(SMAPS, "/usr/local/bin/higgs (deleted)")).toEqual([]);
  expect(cleanRanges("", "/usr/local/bin/higgs")).toEqual([]);
});

function mappedKiB(): number {
  const path = realpathSync("/proc/self/exe");
  const smaps = readFileSync("/proc/self/smaps", "utf8").split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
  const ours = smaps.filter((text) => text.split("\n")[0]?.endsWith(path) === true);
  return ours.reduce((sum, text) => sum + Number(/^Rss: +(\d+) kB$/m.exec(text)?.[1] ?? 0), 0);
}

test("giveBackMemory() lets go of pages of the executable, and the program goes on as before", async () => {
  const before = mappedKiB();
  await giveBackMemory();
  expect(mappedKiB()).toBeLessThan(before);
  expect(JSON.parse(JSON.stringify({ a: [1, "x"] }))).toEqual({ a: [1, "x"] });
});
