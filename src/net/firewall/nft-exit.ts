// The exit's firewall as an nft table: isolation that persists, and a lease on which everything permitted hangs.
import { SerialQueue } from "../../base/async.ts";
import { type Cidr, type IpAddress, parseIp } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { FirewallNotLoaded } from "./errors.ts";
import { type ExitClients, type ExitFirewall, type ExitKept, type ExitPolicy, exitSentence, prefixIn } from "./exit.ts";
import { exitTable } from "./exit-table.ts";
import { isMissing, loadRuleset, nftFailed, readTable, removeTable } from "./nft.ts";
import { type ListedTable, quotedInterface, replacementText, tableDifferences } from "./nft-table.ts";

export interface NftExitDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

/** Calls are done one after the other, in their order. */
export function nftExitFirewall(deps: NftExitDeps): ExitFirewall {
  return new NftExitFirewall(deps);
}

class NftExitFirewall implements ExitFirewall {
  readonly #deps: NftExitDeps;
  readonly #table: string;
  readonly #queue = new SerialQueue();
  #policy: ExitPolicy | null = null;

  constructor(deps: NftExitDeps) {
    this.#deps = deps;
    this.#table = deps.identifiers.table;
  }

  apply(policy: ExitPolicy, signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      const { exec, journal, log } = this.#deps;
      const wanted = exitTable(this.#table, policy);
      const listed = await readTable(exec, this.#table, signal);
      const differences = tableDifferences(wanted, listed);
      if (!journal.entries().some((entry) => entry.kind === "nft-table")) await journal.add({ kind: "nft-table" });
      if (differences.length > 0) {
        log.info({ policy: exitSentence(policy), differences }, "loading the exit's firewall");
        const lease = policy.open ? renewal(this.#table, policy) : keptLease(this.#table, { policy, listed });
        await loadRuleset(exec, replacementText(wanted, lease), signal);
      } else if (policy.open) {
        await loadRuleset(exec, renewal(this.#table, policy), signal);
      }
      this.#policy = policy;
    });
  }

  renewLease(signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      await this.#change("renew the exit's lease", renewal(this.#table, this.#applied()), signal);
    });
  }

  closeLease(signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      await this.#change("close the exit", `flush set inet ${this.#table} lease\n`, signal);
    });
  }

  setClients(clients: ExitClients, signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      const policy = this.#applied();
      const text =
        clientsChange(this.#table, { set: "clients4", before: policy.clients4, after: clients.clients4 }) +
        clientsChange(this.#table, { set: "clients6", before: policy.clients6, after: clients.clients6 });
      if (text !== "") await this.#change("change who may use the exit", text, signal);
      this.#policy = { ...policy, ...clients };
    });
  }

  loaded(signal: AbortSignal): Promise<ExitKept | null> {
    return this.#queue.run(async () => {
      const listed = await readTable(this.#deps.exec, this.#table, signal);
      if (listed === null) return null;
      const values = (set: string): string[] => (listed.sets.get(set)?.elements ?? []).map(({ value }) => value);
      const addresses = (set: string): IpAddress[] => values(set).flatMap((text) => parseIp(text) ?? []);
      const prefixes = (set: string): Cidr[] => values(set).flatMap((text) => prefixIn(text) ?? []);
      return {
        clients4: addresses("clients4"),
        clients6: addresses("clients6"),
        here: [...prefixes("here4"), ...prefixes("here6")],
      };
    });
  }

  verify(signal: AbortSignal): Promise<readonly string[]> {
    return this.#queue.run(async () => {
      const wanted = exitTable(this.#table, this.#applied());
      return tableDifferences(wanted, await readTable(this.#deps.exec, this.#table, signal));
    });
  }

  reset(signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      const { exec, journal, identifiers } = this.#deps;
      this.#policy = null;
      await removeTable(exec, identifiers, signal);
      await journal.remove({ kind: "nft-table" });
    });
  }

  #applied(): ExitPolicy {
    if (this.#policy === null) throw notLoaded(this.#table);
    return this.#policy;
  }

  async #change(what: string, ruleset: string, signal: AbortSignal): Promise<void> {
    const result = await this.#deps.exec.run(["nft", "-f", "-"], { stdin: ruleset, signal });
    if (result.code === 0) return;
    throw isMissing(result.stderr) ? notLoaded(this.#table) : nftFailed(what, result);
  }
}

function notLoaded(table: string): FirewallNotLoaded {
  return new FirewallNotLoaded(`Cannot change the exit's firewall: the nft table "${table}" is not loaded.`, {
    code: "firewall-not-loaded",
  });
}

/** Adding alone would leave a living element's timeout as it is; this sets it anew, whether or not it was there. */
function renewal(table: string, policy: ExitPolicy): string {
  const name = quotedInterface(policy.interface);
  const add = `add element inet ${table} lease { ${name} timeout ${policy.leaseS}s }\n`;
  return `${add}delete element inet ${table} lease { ${name} }\n${add}`;
}

/** A lease that lives goes on into the new table with the time that it has left. */
function keptLease(table: string, old: { readonly policy: ExitPolicy; readonly listed: ListedTable | null }): string {
  const lease = old.listed?.sets.get("lease")?.elements.find((element) => element.value === old.policy.interface);
  const leftS = Math.min(lease?.expiresS ?? 0, old.policy.leaseS);
  if (leftS <= 0) return "";
  const name = quotedInterface(old.policy.interface);
  return `add element inet ${table} lease { ${name} timeout ${old.policy.leaseS}s expires ${leftS}s }\n`;
}

function clientsChange(
  table: string,
  change: { readonly set: string; readonly before: readonly IpAddress[]; readonly after: readonly IpAddress[] },
): string {
  const before = new Set(change.before);
  const after = new Set(change.after);
  const gone = [...before].filter((address) => !after.has(address));
  const come = [...after].filter((address) => !before.has(address));
  if (gone.length === 0 && come.length === 0) return "";
  // The whole set anew, in one transaction: it does not matter what somebody else did to it.
  const flush = `flush set inet ${table} ${change.set}\n`;
  return after.size === 0 ? flush : `${flush}add element inet ${table} ${change.set} { ${[...after].join(", ")} }\n`;
}
