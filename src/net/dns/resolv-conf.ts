// Sets the machine's DNS servers in /etc/resolv.conf, and puts the file back byte for byte.
import type { Logger } from "../../base/log.ts";
import type { Journal } from "../journal.ts";
import type { SystemDns } from "./system-dns.ts";

export interface ResolvConfDeps {
  /** Where the file as it was is kept, under the fixed name `resolv.conf.before`. */
  readonly stateDir: string;
  readonly journal: Journal;
  readonly log: Logger;
  /** Default /etc/resolv.conf. */
  readonly path?: string;
}

export function resolvConfDns(deps: ResolvConfDeps): SystemDns {
  throw new Error(`Cannot set DNS in "${deps.path ?? "/etc/resolv.conf"}" yet.`);
}

/** Puts the file back where it is still ours, with or without the journal's memory. True when it was ours. */
export async function restoreResolvConf(deps: ResolvConfDeps, signal: AbortSignal): Promise<boolean> {
  void deps;
  signal.throwIfAborted();
  return false;
}
