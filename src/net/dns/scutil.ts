// Sets the machine's DNS servers on macOS: a service of our own in configd's store, by `scutil`.
import { SerialQueue } from "../../base/async.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output } from "../exec.ts";
import { DNS_KEY } from "../identifiers-macos.ts";
import type { Journal } from "../journal.ts";
import { searchDomainsOf } from "./domains.ts";
import { DnsRefused } from "./errors.ts";
import type { DnsPolicy, MachineDns } from "./system-dns.ts";

export interface ScutilDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
}

export interface ScutilDns extends MachineDns {
  /** True when somebody else changed what was last applied. */
  differs(signal: AbortSignal): Promise<boolean>;
}

/** Calls are done one after the other, in their order. The store is memory: a boot empties it. */
export function scutilDns(deps: ScutilDeps): ScutilDns {
  const { exec, journal, log } = deps;
  const queue = new SerialQueue();
  let current: DnsPolicy | null = null;
  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        current = policy;
        const script = setScript(policy);
        if (isAsWanted(await readDns(exec, signal), policy)) return;
        log.info({ servers: policy.servers, key: DNS_KEY }, "setting the DNS servers");
        await journal.add({ kind: "scutil-dns" });
        await scutil(exec, script, signal);
        // scutil ends with 0 whatever it was refused.
        if (!isAsWanted(await readDns(exec, signal), policy)) throw refused("set");
      }),
    differs: (signal) => queue.run(async () => current !== null && !isAsWanted(await readDns(exec, signal), current)),
    reset: (signal) =>
      queue.run(async () => {
        current = null;
        await removeDns(deps, signal);
      }),
    foreign: () => Promise.resolve(null), // what somebody else writes there is put back
  };
}

/** True when there was something of ours. */
export async function removeDns({ exec, journal }: Omit<ScutilDeps, "log">, signal: AbortSignal): Promise<boolean> {
  const wasThere = (await readDns(exec, signal)) !== null;
  if (wasThere) {
    // scutil(8), "remove": takes a key out of the store.
    await scutil(exec, `remove ${DNS_KEY}\n`, signal);
    if ((await readDns(exec, signal)) !== null) throw refused("remove");
  }
  await journal.remove({ kind: "scutil-dns" });
  return wasThere;
}

/** What our key says; null without it. */
export async function readDns(exec: Exec, signal: AbortSignal): Promise<ShownDns | null> {
  // scutil(8), "show": prints the value of a key.
  return parseShown(await scutil(exec, `show ${DNS_KEY}\n`, signal));
}

/**
 * scutil(8): d.init begins a dictionary, `d.add KEY *` gives it a list, and "set" puts it into the store. A domain of "" among
 * SupplementalMatchDomains makes these servers the ones for every name (NEDNSSettings, matchDomains).
 */
function setScript(policy: DnsPolicy): string {
  const search = searchDomainsOf(policy);
  return [
    "d.init",
    `d.add ServerAddresses * ${policy.servers.join(" ")}`,
    'd.add SupplementalMatchDomains * ""',
    ...(search.length === 0 ? [] : [`d.add SearchDomains * ${search.join(" ")}`]),
    `set ${DNS_KEY}`,
    "",
  ].join("\n");
}

export interface ShownDns {
  readonly servers: readonly string[];
  readonly search: readonly string[];
  readonly isForEveryName: boolean;
}

/**
 * <dictionary> {
 *   ServerAddresses : <array> {
 *     0 : 10.83.0.1
 *   }
 * }
 */
export function parseShown(text: string): ShownDns | null {
  if (!text.includes("<dictionary>")) return null; // "No such key"
  const lists = new Map<string, string[]>();
  let list: string[] | null = null;
  for (const line of text.split("\n")) {
    const name = /^\s*(\w+) : <array> \{/.exec(line)?.[1];
    if (name !== undefined) {
      list = [];
      lists.set(name, list);
      continue;
    }
    const item = /^\s*\d+ :(.*)$/.exec(line)?.[1];
    if (item !== undefined) list?.push(item.trim());
  }
  return {
    servers: lists.get("ServerAddresses") ?? [],
    search: lists.get("SearchDomains") ?? [],
    isForEveryName: lists.get("SupplementalMatchDomains")?.includes("") === true,
  };
}

function isAsWanted(shown: ShownDns | null, policy: DnsPolicy): boolean {
  if (shown === null || !shown.isForEveryName) return false;
  return isSame(shown.servers, policy.servers) && isSame(shown.search, policy.searchDomains ?? []);
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((one, at) => one === b[at]);
}

async function scutil(exec: Exec, script: string, signal: AbortSignal): Promise<string> {
  // scutil(8): without arguments it takes commands from standard input.
  return await output(exec, ["scutil"], { stdin: script, signal });
}

function refused(what: string): DnsRefused {
  return new DnsRefused(`Cannot ${what} the DNS servers: configd does not take it.`, {
    code: "scutil-refused",
    remedy: `See what is there: echo "show ${DNS_KEY}" | scutil`,
  });
}
