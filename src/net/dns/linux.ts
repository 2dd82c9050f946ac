// Chooses between systemd-resolved and resolv.conf by what the machine's programs ask.
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { asksOnly, fileDns, RESOLV_CONF, see, writerAt } from "./file-dns.ts";
import { helperDns, needsHelper } from "./resolv-conf-helper.ts";
import { isOurs } from "./resolv-conf-text.ts";
import { serversOf } from "./resolv-conf-writer.ts";
import { makeResolvedRead, resolvedDns, resolvedRuns } from "./resolved.ts";
import type { MachineDns } from "./system-dns.ts";

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
 * resolv.conf is set too unless it sends everybody to resolved.
 */
export function linuxDns(deps: LinuxDnsDeps): MachineDns {
  const { exec, log } = deps;
  const path = deps.resolvConfPath ?? RESOLV_CONF;
  const resolved = resolvedDns(deps);
  const makeRead = (signal: AbortSignal): Promise<void> => makeResolvedRead(exec, signal);
  const file = needsHelper() ? helperDns(deps, path) : fileDns({ ...deps, path, makeRead });
  /** Names have been as wanted: what a person writes from now on is theirs. A process that begins anew knows by the journal. */
  let isSettled = false;
  return {
    async apply(policy, signal) {
      const runs = await resolvedRuns(exec, signal);
      if (runs) await resolved.apply(policy, signal);
      const seen = await see(path);
      if (!(runs && asksResolved(seen.bytes))) {
        if (isSettled && (await writerAt(seen)) === "person") {
          log.debug({ path }, "leaving resolv.conf as somebody else wrote it");
          return;
        }
        await file.apply(policy, signal);
      }
      isSettled = true;
    },
    async reset(signal) {
      isSettled = false;
      await file.reset(signal);
      await resolved.reset(signal);
    },
    async foreign(policy) {
      const { state, bytes } = await see(path);
      if (state.kind === "hidden") return null; // the helper alone can tell
      if (bytes === null) return [];
      return isOurs(bytes) || asksResolved(bytes) || asksOnly(bytes, policy) ? null : serversOf(bytes);
    },
  };
}

/** True when every server in there is resolved's own stub (systemd-resolved.service(8): 127.0.0.53 and 127.0.0.54). */
export function asksResolved(resolvConf: Uint8Array | null): boolean {
  const servers = serversOf(resolvConf);
  return servers.length > 0 && servers.every((server) => server === "127.0.0.53" || server === "127.0.0.54");
}
