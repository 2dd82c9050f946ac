// The nft tables of an earlier process that would still move, drop or hand over the packets of WireGuard's port: taken away.
import { errorText, type HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, ToolFailed, ToolMissing } from "../exec.ts";
import { removeTable } from "../firewall/nft.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { removeEach } from "../remove-listed.ts";

/** What an earlier process with nft does to the packets of WireGuard's port. */
export const SHARING = ["demux-table", "redirect-table"] as const;

/**
 * Its record of connections too, where without nft nobody would read it. Throws ToolFailed for a table that stays although nft works:
 * nobody would see what swallows the packets.
 */
export async function forgetTables(
  deps: {
    readonly exec: Exec;
    readonly journal: Journal;
    readonly identifiers: Pick<Identifiers, "demuxTable" | "redirectTable" | "logTable">;
    readonly nftTrouble: HiggsError | null;
    readonly log: Logger;
  },
  kinds: readonly ("demux-table" | "redirect-table" | "log-table")[],
  signal: AbortSignal,
): Promise<void> {
  const { exec, journal, identifiers, nftTrouble, log } = deps;
  const { demuxTable, redirectTable, logTable } = identifiers;
  const names = { "demux-table": demuxTable, "redirect-table": redirectTable, "log-table": logTable };
  await removeEach(kinds, async (kind) => {
    const table = names[kind];
    try {
      const wasThere = await removeTable(exec, { table }, signal);
      if (wasThere) log.info({ table }, "removed an nft table of an earlier process");
      await journal.remove({ kind });
      return wasThere;
    } catch (thrown) {
      if (nftTrouble === null || !(thrown instanceof ToolMissing || thrown instanceof ToolFailed)) throw thrown;
      // A kernel that cannot be asked for tables has none, unless it could be asked once.
      if (journal.entries().some((entry) => entry.kind === kind)) {
        log.warn({ table, reason: errorText(thrown) }, "an nft table of an earlier process may be in force still");
      }
      return false;
    }
  });
}
