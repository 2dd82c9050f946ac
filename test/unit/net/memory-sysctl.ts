// Kernel settings in memory, which say in which order they were written, and of which some refuse.
import type { SysctlKey } from "../../../src/net/journal.ts";
import { type Sysctl, SysctlRefused } from "../../../src/net/sysctl.ts";

export interface MemorySysctl extends Sysctl {
  readonly values: Map<string, string>;
  /** `key=value`, in order. */
  readonly written: string[];
  readonly refuses: Set<string>;
}

export function memorySysctl(start: Readonly<Record<string, string>>): MemorySysctl {
  const before = new Map(Object.entries(start));
  const values = new Map(before);
  const written: string[] = [];
  const refuses = new Set<string>();
  return {
    values,
    written,
    refuses,
    read: async (key: SysctlKey) => values.get(key) ?? null,
    async set(key, value) {
      if (values.get(key) === value) return;
      if (refuses.has(key)) throw new SysctlRefused(`Cannot write "${key}": read-only.`, { code: "sysctl-refused" });
      values.set(key, value);
      written.push(`${key}=${value}`);
    },
    verify: () => Promise.resolve([]),
    async restore() {
      for (const [key, value] of before) values.set(key, value);
      return [];
    },
  };
}
