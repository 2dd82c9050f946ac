// Sets the machine's DNS servers on the tunnel's link in systemd-resolved.
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import type { SystemDns } from "./system-dns.ts";

export interface ResolvedDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

export function resolvedDns(deps: ResolvedDeps): SystemDns {
  throw new Error(`Cannot set DNS on "${deps.identifiers.interface}" yet.`);
}

/** Takes our settings off the link, without memory; a link or a resolved that is not there has none. True when it was done. */
export async function revertResolved(exec: Exec, identifiers: Identifiers, signal: AbortSignal): Promise<boolean> {
  const result = await exec.run(["resolvectl", "revert", identifiers.interface], { signal });
  return result.code === 0;
}
