// Kernel settings under /proc/sys: written only where they differ, journaled before, put back only if still ours.
import { HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Journal, SysctlKey } from "./journal.ts";

export interface Sysctl {
  /** The value without its line end; null where the kernel has no such setting (IPv6 switched off, no such interface). */
  read(key: SysctlKey): Promise<string | null>;
  /** Nothing is written when it is as wanted. Throws SysctlRefused where it may not or cannot be written. */
  set(key: SysctlKey, value: string): Promise<void>;
  /** Puts back every setting in the journal whose value is still ours; harmless twice. Returns a sentence for each. */
  restore(): Promise<readonly string[]>;
}

export class SysctlRefused extends HiggsError {
  override readonly name = "SysctlRefused";
}

export interface SysctlDeps {
  readonly journal: Journal;
  readonly log: Logger;
  /** Where the kernel shows its settings. */
  readonly rootDir?: string;
}
