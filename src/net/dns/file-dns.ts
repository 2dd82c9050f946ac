// The machine's DNS servers by the file that programs read, told to whoever keeps it: resolvconf, or nobody but us.
import { SerialQueue } from "../../base/async.ts";
import { equalBytes } from "../../base/bytes.ts";
import { tryEach } from "../remove-listed.ts";
import { dhcpLeases } from "./dhcp-leases.ts";
import { readBackup } from "./resolv-conf-backup.ts";
import { type FileState, readIfAllowed, readState, readThrough } from "./resolv-conf-file.ts";
import { type ResolvConfDeps, resolvConfDns, restoreResolvConf } from "./resolv-conf.ts";
import { type Seen, serversOf, type Writer, writerOf } from "./resolv-conf-writer.ts";
import { type RecordDeps, removeRecord, setRecord } from "./resolvconf-record.ts";
import type { DnsPolicy, SystemDns } from "./system-dns.ts";

export type FileDnsDeps = ResolvConfDeps & RecordDeps;

/**
 * The rule for a file that somebody else writes while ours is wanted:
 *   a program's (its header, its link, or a lease's servers)   ours again, and theirs is what comes back in the end
 *   a person's                                                 stays theirs, untouched, until the servers are wanted anew
 */
export function fileDns(deps: FileDnsDeps): SystemDns {
  const queue = new SerialQueue();
  const file = resolvConfDns(deps);
  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        const path = deps.path ?? RESOLV_CONF;
        const seen = await see(path);
        const backup = await readBackup(deps.stateDir);
        if (isSet(deps) && !isLike(seen.state, backup) && (await writerAt(seen)) === "person") {
          deps.log.info({ path }, "leaving resolv.conf as somebody else wrote it");
          return;
        }
        const below = seen.bytes !== null && writerOf(seen) === "higgs" && backup !== null ? backup : seen.state;
        const isTold =
          writerOf({ state: below, bytes: null }) === "resolvconf" && (await setRecord(deps, policy, signal));
        if (isTold && asksOnly(await readBytes(path), policy)) return;
        await file.apply(policy, signal);
      }),
    reset: (signal) => queue.run(async () => void (await restoreNames(deps, signal))),
  };
}

/** What was put back. */
export interface Restored {
  readonly file: boolean;
  readonly record: boolean;
}

/** The file first: openresolv would keep a copy of ours beside it. With or without the journal's memory. */
export async function restoreNames(deps: FileDnsDeps, signal: AbortSignal): Promise<Restored> {
  const [file = false, record = false] = await tryEach([restoreResolvConf, removeRecord], (undo) => undo(deps, signal));
  return { file, record };
}

export const RESOLV_CONF = "/etc/resolv.conf";

export async function see(path: string): Promise<Seen> {
  const through = await readIfAllowed(path);
  if (through === "hidden") return { state: { kind: "hidden" }, bytes: null };
  return { state: await readState(path), bytes: through?.bytes ?? null };
}

/** As `writerOf`, with the leases that it may take to tell. */
export async function writerAt(seen: Seen): Promise<Writer> {
  const writer = writerOf(seen);
  return writer === "person" ? writerOf(seen, await dhcpLeases()) : writer;
}

/** True when there is nobody else in it to ask. What resolvconf tells a cache on this machine to ask, it was told by us. */
export function asksOnly(bytes: Uint8Array | null, policy: Pick<DnsPolicy, "servers">): boolean {
  const servers = serversOf(bytes);
  const ours: readonly string[] = policy.servers;
  return servers.length > 0 && servers.every((one) => ours.includes(one) || /^(?:127\.|::1$)/.test(one));
}

async function readBytes(path: string): Promise<Uint8Array | null> {
  return (await readThrough(path))?.bytes ?? null;
}

function isSet({ journal }: FileDnsDeps): boolean {
  return journal.entries().some(({ kind }) => kind === "resolv-conf" || kind === "resolvconf-record");
}

/** A process that was killed before it replaced the file had a copy of it already. */
function isLike(state: Seen["state"], backup: FileState | null): boolean {
  if (backup === null || state.kind !== backup.kind) return false;
  if (state.kind === "file" && backup.kind === "file") return equalBytes(state.bytes, backup.bytes);
  return state.kind !== "symlink" || backup.kind !== "symlink" || state.target === backup.target;
}
