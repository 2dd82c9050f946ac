// What an earlier process did to the packets of WireGuard's port is over, or whoever starts hears that it is not.
import { expect, test } from "bun:test";
import { silentLogger } from "../../../../src/base/log.ts";
import { forgetTables, SHARING } from "../../../../src/net/discovery/earlier-tables.ts";
import { type Exec, ToolFailed } from "../../../../src/net/exec.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { failureOf } from "../../support/failure.ts";
import { memoryJournal } from "../memory-journal.ts";

const { signal } = new AbortController();
const identifiers = IDENTIFIERS.client;
const nftTrouble = new ToolFailed("Cannot use nft on this machine.", { code: "nft-unusable" });

function machine(stderrOf: (table: string) => string) {
  const tables = new Set([identifiers.demuxTable, identifiers.redirectTable]);
  const exec: Exec = {
    async run(argv) {
      const table = argv.at(-1) ?? "";
      const stderr = stderrOf(table);
      if (stderr === "") tables.delete(table);
      return { code: stderr === "" ? 0 : 1, stdout: "", stderr };
    },
  };
  const journal = memoryJournal([{ kind: "demux-table" }, { kind: "redirect-table" }]);
  return { tables, journal, deps: { exec, journal, identifiers, log: silentLogger } };
}

test("takes them away, also from the journal", async () => {
  const { tables, journal, deps } = machine(() => "");
  await forgetTables({ ...deps, nftTrouble: null }, SHARING, signal);
  expect([...tables, journal.printed()]).toEqual([""]);
});

test("bug: a table that nft could not take away went on swallowing packets unseen", async () => {
  const { tables, journal, deps } = machine((table) =>
    table === identifiers.demuxTable ? "Error: Could not process rule: Cannot allocate memory" : "",
  );
  const failure = await failureOf(forgetTables({ ...deps, nftTrouble: null }, SHARING, signal));
  expect(String(failure)).toContain("Cannot allocate memory");
  expect([...tables]).toEqual([identifiers.demuxTable]); // the other is gone all the same
  expect(journal.printed()).toBe("demux-table");
});

test("starts where nft does no work, and keeps what it could not ask for in the journal", async () => {
  const { journal, deps } = machine(() => "Operation not supported");
  await forgetTables({ ...deps, nftTrouble }, SHARING, signal);
  expect(journal.printed()).toBe("demux-table redirect-table");
});
