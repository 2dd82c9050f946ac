// Watching the kernel settings that a role changed: nothing tells of a write to /proc/sys, so they are looked at, which costs microseconds.
import type { Service } from "../base/service.ts";
import type { Sysctl } from "./sysctl.ts";
import { watchDifferences } from "./watch-differences.ts";

/** Calls `onChange` when a setting in the journal is no more as it was set; somebody may not let it be written. */
export function watchSettings(sysctl: Pick<Sysctl, "verify">, options: { readonly onChange: () => void }): Service {
  return watchDifferences({ look: async () => ((await sysctl.verify()).length > 0 ? "wrong" : "right"), ...options });
}
