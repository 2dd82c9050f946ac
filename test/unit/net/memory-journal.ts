// A journal in memory that can be printed, and that a test may let fail.
import { entryKey, type Journal, type UndoEntry } from "../../../src/net/journal.ts";

export interface MemoryJournal extends Journal {
  /** The kinds of its entries, in order. */
  printed(): string;
}

export function memoryJournal(start: readonly UndoEntry[] = []): MemoryJournal {
  let all: readonly UndoEntry[] = start;
  return {
    entries: () => all,
    async add(entry) {
      const known = all.find((one) => entryKey(one) === entryKey(entry));
      if (known?.kind === "windows-profile") return; // keeps what was before us
      const before =
        known?.kind === "resolv-conf" && entry.kind === "resolv-conf" ? { ...entry, original: known.original } : entry;
      all = [...all.filter((one) => one !== known), before];
    },
    async remove(entry) {
      all = all.filter((one) => entryKey(one) !== entryKey(entry));
    },
    printed: () => all.map(entryKey).join(" "),
  };
}
