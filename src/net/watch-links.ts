// Watching the machine's links, addresses, routes and rules: one call for each burst of changes.
import type { Service } from "../base/service.ts";
import { watchMonitor, type WatchOptions } from "./monitor.ts";

/** Throws ToolMissing. */
export function watchLinks(options: WatchOptions): Service {
  const argv = ["ip", "monitor", "link", "address", "route", "rule"] as const;
  return watchMonitor({ argv, of: "links", burstMs: 200 }, options);
}
