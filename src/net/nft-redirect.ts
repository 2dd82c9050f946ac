// The redirect as an nft table.
import { SerialQueue } from "../base/async.ts";
import { formatEndpoint } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Exec } from "./exec.ts";
import { loadRuleset, readTable, removeTable } from "./firewall/nft.ts";
import { type NftTable, replacementText, tableDifferences } from "./firewall/nft-table.ts";
import type { Identifiers } from "./identifiers.ts";
import type { Journal } from "./journal.ts";
import type { Redirect, RedirectPolicy } from "./redirect.ts";
import { redirectTable } from "./redirect-table.ts";

export interface NftRedirectDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Pick<Identifiers, "redirectTable">;
  readonly log: Logger;
}

/** Calls are done one after the other, in their order. */
export function nftRedirect(deps: NftRedirectDeps): Redirect {
  const { exec, journal, log } = deps;
  const name = deps.identifiers.redirectTable;
  const queue = new SerialQueue();
  /** What is loaded; null for "no table", undefined for "not known": a process before us may have left one. */
  let loaded: string | null | undefined;

  /** Somebody may have flushed the rules. */
  const isLoaded = async (table: NftTable, signal: AbortSignal): Promise<boolean> =>
    tableDifferences(table, await readTable(exec, name, signal)).length === 0;

  const remove = async (signal: AbortSignal): Promise<void> => {
    await removeTable(exec, { table: name }, signal);
    await journal.remove({ kind: "redirect-table" });
    loaded = null;
  };

  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        const table = redirectTable(name, policy);
        const text = table === null ? null : replacementText(table);
        if (text === loaded && (table === null || (await isLoaded(table, signal)))) return;
        log.debug({ policy: sentence(policy) }, "changing where WireGuard's packets go");
        loaded = undefined;
        if (text === null) {
          await remove(signal);
          return;
        }
        await journal.add({ kind: "redirect-table" });
        await loadRuleset(exec, text, signal);
        loaded = text;
      }),
    reset: (signal) =>
      queue.run(async () => {
        loaded = undefined;
        await remove(signal);
      }),
  };
}

/** The policy for a person, before it is put in place. */
function sentence({ redirects, dropFrom, sides = [] }: RedirectPolicy): string {
  const moved = redirects.map(({ from, to }) => `${formatEndpoint(from)} goes to ${formatEndpoint(to)}`);
  const dropped = dropFrom.map((from) => `${formatEndpoint(from)} is dropped`);
  const beside = sides.map(({ port, peer, leaves }) =>
    leaves ? `${formatEndpoint(peer)} by port ${port}` : `${formatEndpoint(peer)} is let in at port ${port}`,
  );
  return [...moved, ...beside, ...dropped].join("; ") || "nothing is redirected or dropped";
}
