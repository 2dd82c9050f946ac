// Gives back the memory that only a program's start needed: garbage, and pages of the executable's file that nothing has used since.
//
// The executable is large, and its start touches much of it once. Pages of its file that were never written can be let go at any time:
// whoever uses one again has it back from the page cache, sixteen at a time, in microseconds (madvise(2), MADV_DONTNEED; the kernel's
// fault_around_bytes). They count as this process' memory as long as they are mapped, and the kernel takes them only in need.
import { readFile, realpath } from "node:fs/promises";
import { C_LIBRARIES } from "./udp-options.ts";

export interface PageRange {
  readonly start: number;
  readonly bytes: number;
}

/** madvise(2); asm-generic/mman-common.h. */
const MADV_DONTNEED = 4;

/**
 * From the text of /proc/self/smaps: what is mapped of the file, may not be written, and has no page that is not the file's own
 * (such as relocations have).
 */
export function cleanRanges(smaps: string, filePath: string): readonly PageRange[] {
  return smaps.split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/).flatMap((text) => {
    const [, from, to, mode, path] = /^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ +(.*)$/m.exec(text) ?? [];
    const isClean = /^Anonymous: +0 kB$/m.test(text);
    if (from === undefined || to === undefined || mode?.[1] !== "-" || path !== filePath || !isClean) return [];
    const start = Number.parseInt(from, 16);
    return [{ start, bytes: Number.parseInt(to, 16) - start }];
  });
}

/** Never throws: memory that is not given back costs nothing else. */
export async function giveBackMemory(): Promise<void> {
  Bun.gc(false); // beside the work, not in its way
  if (process.platform !== "linux") return;
  try {
    const [smaps, path] = await Promise.all([readFile("/proc/self/smaps", "utf8"), realpath("/proc/self/exe")]);
    const { dlopen } = await import("bun:ffi");
    const symbols = { madvise: { args: ["usize", "usize", "i32"], returns: "i32" } } as const;
    const library = (C_LIBRARIES[process.arch] ?? []).map((name) => () => dlopen(name, symbols)).find(isThere)?.();
    if (library === undefined) return;
    for (const { start, bytes } of cleanRanges(smaps, path)) library.symbols.madvise(start, bytes, MADV_DONTNEED);
    library.close();
  } catch {
    // no /proc here, or it may not be read
  }
}

function isThere(open: () => { close(): void }): boolean {
  try {
    open().close();
    return true;
  } catch {
    return false; // not this system's C library
  }
}
