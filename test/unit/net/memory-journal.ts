// A journal in memory that can be printed, and that a test may let fail.
import type { Journal, UndoEntry } from "../../../src/net/journal.ts";

export interface MemoryJournal extends Journal {
  /** The kinds of its entries, in order. */
  printed(): string;
}

export function memoryJournal(start: readonly UndoEntry[] = []): MemoryJournal {
  let all: readonly UndoEntry[] = start;
  const keyOf = (entry: UndoEntry): string => (entry.kind === "sysctl" ? entry.key : entry.kind);
  return {
    entries: () => all,
    async add(entry) {
      const known = all.find((one) => keyOf(one) === keyOf(entry));
      const before =
        known?.kind === "resolv-conf" && entry.kind === "resolv-conf" ? { ...entry, original: known.original } : entry;
      all = [...all.filter((one) => one !== known), before];
    },
    async remove(entry) {
      all = all.filter((one) => keyOf(one) !== keyOf(entry));
    },
    printed: () => all.map(keyOf).join(" "),
  };
}
