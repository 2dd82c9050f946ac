// Watching the machine's nft rules: one call for each burst of changes, whoever made them.
import type { Service } from "../base/service.ts";
import { watchMonitor, type WatchOptions } from "./monitor.ts";

/** What a flush opens is open for this long and the time of a look at the rules. Throws ToolMissing. */
const BURST_MS = 10;

export function watchRules(options: WatchOptions): Service {
  return watchMonitor({ argv: ["nft", "monitor"], of: "firewall rules", burstMs: BURST_MS }, options);
}
