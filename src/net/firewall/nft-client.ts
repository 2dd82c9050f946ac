// The client's firewall as an nft table.
import { SerialQueue } from "../../base/async.ts";
import { formatEndpoint } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import type { ClientFirewall, ClientFirewallPolicy } from "./client.ts";
import { clientTable } from "./client-table.ts";
import { FirewallNotLoaded } from "./errors.ts";
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
  let wanted: NftTable | null = null;

  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        const table = clientTable(identifiers.table, { policy, mark: identifiers });
        const differences = tableDifferences(table, await readTable(exec, table.name, signal));
        if (!journal.entries().some((entry) => entry.kind === "nft-table")) await journal.add({ kind: "nft-table" });
        if (differences.length > 0) {
          log.info({ policy: clientSentence(policy), differences }, "loading the client's firewall");
          await loadRuleset(exec, replacementText(table), signal);
        }
        wanted = table;
      }),

    verify: (signal) =>
      queue.run(async () => {
        if (wanted === null) {
          throw new FirewallNotLoaded(`Cannot verify the nft table "${identifiers.table}": none was applied yet.`, {
            code: "firewall-not-loaded",
          });
        }
        return tableDifferences(wanted, await readTable(exec, wanted.name, signal));
      }),

    reset: (signal) =>
      queue.run(async () => {
        wanted = null;
        await removeTable(exec, identifiers, signal);
        await journal.remove({ kind: "nft-table" });
      }),
  };
}

/** The policy for a person, before it is put in place. */
function clientSentence(policy: ClientFirewallPolicy): string {
  const carrier = policy.carrier.map(formatEndpoint).join(", ") || "nothing";
  return `Answers of what goes past ${policy.interface} are recognised; the carrier reaches ${carrier}.`;
}
