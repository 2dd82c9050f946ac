// The client's firewall as nft tables.
import { SerialQueue } from "../../base/async.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { tryEach } from "../remove-listed.ts";
import type { ClientFirewall, ClientFirewallPolicy } from "./client.ts";
import { clientSentence } from "./client-sentence.ts";
import { rulesetFor } from "./client-table.ts";
import { egressTable } from "./egress-table.ts";
import { FirewallNotLoaded, FirewallNotVerified } from "./errors.ts";
import { loadRuleset, readTable, removeTable } from "./nft.ts";
import { type NftTable, replacementText, tableDifferences } from "./nft-table.ts";

export interface NftClientDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

/** Calls are done one after the other, in their order. */
export function nftClientFirewall(deps: NftClientDeps): ClientFirewall {
  const { exec, journal, identifiers, log } = deps;
  const queue = new SerialQueue();
  let wanted: { readonly inet: NftTable | null; readonly egress: NftTable | null } | null = null;

  const differences = async (table: NftTable, signal: AbortSignal): Promise<readonly string[]> =>
    tableDifferences(table, await readTable(exec, table.name, { signal, family: table.family ?? "inet" }));

  const load = async (table: NftTable, policy: ClientFirewallPolicy, signal: AbortSignal): Promise<void> => {
    const before = await differences(table, signal);
    const kind = table.family === "netdev" ? "egress-table" : "nft-table";
    if (!journal.entries().some((entry) => entry.kind === kind)) await journal.add({ kind });
    if (before.length === 0) return;
    log.info({ policy: clientSentence(policy), differences: before }, "loading the client's firewall");
    await loadRuleset(exec, replacementText(table), signal);
    const after = await differences(table, signal);
    if (after.length > 0) throw notVerified(after);
  };
  const removeInet = async (signal: AbortSignal): Promise<void> => {
    await removeTable(exec, identifiers, signal);
    await journal.remove({ kind: "nft-table" });
  };
  const removeEgress = async (signal: AbortSignal): Promise<void> => {
    await removeTable(exec, { table: identifiers.egressTable, family: "netdev" }, signal);
    await journal.remove({ kind: "egress-table" });
  };

  return {
    apply: (next, signal) =>
      queue.run(async () => {
        const { policy } = next;
        const inet = rulesetFor(identifiers.table, policy, identifiers);
        const egress = egressTable(identifiers.egressTable, next, identifiers);
        // What closes comes first; what is taken away goes last.
        if (inet !== null) await load(inet, policy, signal);
        const hadEgress = wanted?.egress !== null && wanted !== null;
        if (egress !== null) await load(egress, policy, signal);
        else if (hadEgress || journal.entries().some((entry) => entry.kind === "egress-table")) {
          await removeEgress(signal);
        }
        if (inet === null) await removeInet(signal);
        wanted = { inet, egress };
      }),

    closes: (signal) =>
      queue.run(async () => {
        const listed = await readTable(exec, identifiers.table, signal);
        return listed?.chains.get("output")?.base.endsWith(" drop") === true;
      }),

    verify: (signal) =>
      queue.run(async () => {
        if (wanted === null) {
          throw new FirewallNotLoaded(`Cannot verify the nft table "${identifiers.table}": none was applied yet.`, {
            code: "firewall-not-loaded",
          });
        }
        const found: string[] = [];
        for (const table of [wanted.inet, wanted.egress]) {
          if (table !== null) found.push(...(await differences(table, signal)));
        }
        return found;
      }),

    reset: (signal) =>
      queue.run(async () => {
        wanted = null;
        await tryEach([removeEgress, removeInet], (remove) => remove(signal));
      }),
  };
}

function notVerified(differences: readonly string[]): FirewallNotVerified {
  return new FirewallNotVerified(`Cannot rely on the client's firewall: ${differences.join(" ")}`, {
    code: "firewall-not-verified",
    remedy: "Another program may be changing the rules at the same time; see: nft monitor",
  });
}
