// Chooses between systemd-resolved and resolv.conf by what the machine's programs ask.
import { utf8Text } from "../../base/bytes.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { helperDns, needsHelper } from "./resolv-conf-helper.ts";
import { resolvConfDns } from "./resolv-conf.ts";
import { readIfAllowed } from "./resolv-conf-file.ts";
import { makeResolvedRead, resolvedDns, resolvedRuns } from "./resolved.ts";
import type { SystemDns } from "./system-dns.ts";

export interface LinuxDnsDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
  /** The role's state folder. */
  readonly stateDir: string;
  /** Default /etc/resolv.conf. */
  readonly resolvConfPath?: string;
}

/**
 * Decided at each `apply`. Where systemd-resolved runs it is told, as programs may ask it without resolv.conf (nss-resolve);
 * resolv.conf is written too unless it sends everybody to resolved.
 */
export function linuxDns(deps: LinuxDnsDeps): SystemDns {
  const { exec, stateDir } = deps;
  const path = deps.resolvConfPath ?? "/etc/resolv.conf";
  const resolved = resolvedDns(deps);
  const makeRead = (signal: AbortSignal): Promise<void> => makeResolvedRead(exec, signal);
  const resolvConf = needsHelper()
    ? helperDns(path)
    : resolvConfDns({ stateDir, journal: deps.journal, log: deps.log, path, makeRead });
  return {
    async apply(policy, signal) {
      if (await resolvedRuns(exec, signal)) {
        await resolved.apply(policy, signal);
        const now = await readIfAllowed(path);
        if (now !== null && now !== "hidden" && asksResolved(now.bytes)) return;
      }
      await resolvConf.apply(policy, signal);
    },
    async reset(signal) {
      await resolvConf.reset(signal);
      await resolved.reset(signal);
    },
  };
}

/** True when every server in there is resolved's own stub (systemd-resolved.service(8): 127.0.0.53 and 127.0.0.54). */
export function asksResolved(resolvConf: Uint8Array): boolean {
  let text: string;
  try {
    text = utf8Text(resolvConf);
  } catch {
    return false; // whatever it is, it does not send anybody to resolved
  }
  const servers = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((match) => match[1]);
  return servers.length > 0 && servers.every((server) => server === "127.0.0.53" || server === "127.0.0.54");
}
