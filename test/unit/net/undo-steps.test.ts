// The order of an undoing on any platform: a kill switch that is on closes the machine before everything else, and still at the end.
import { expect, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import { runUndo, UndoIncomplete } from "../../../src/net/undo-steps.ts";
import { failureOf } from "../support/failure.ts";
import { memoryJournal } from "./memory-journal.ts";

/** `refusals`: how many times the firewall does not close. */
function machine(refusals = 0) {
  const seen: string[] = [];
  let refused = 0;
  let isClosed = false;
  const close = async (): Promise<string> => {
    if (refused++ < refusals) throw new Error("Cannot rely on the firewall.");
    isClosed = true;
    return "Kept the kill switch.";
  };
  const flushed = async (): Promise<readonly string[]> => {
    seen.push(isClosed ? "closed" : "open");
    isClosed = false; // somebody flushes all rules just now
    return ["Removed the WireGuard device."];
  };
  const undo = () =>
    runUndo(
      { journal: memoryJournal(), log: silentLogger, signal: new AbortController().signal },
      {
        role: "client",
        steps: { "wireguard-device": flushed, "nft-table": () => Promise.reject(new Error("stays")) },
        order: ["wireguard-device", "nft-table"],
        kept: { kinds: ["nft-table"], close },
        remedy: "",
        wasNeverThere: () => Promise.resolve(false),
      },
    );
  return { seen, undo, isClosed: () => isClosed };
}

test("bug: a kill switch that somebody flushed on the way down was off in the end, and nobody said so", async () => {
  const { seen, undo, isClosed } = machine();
  expect(await undo()).toEqual(["Kept the kill switch.", "Removed the WireGuard device."]);
  expect([seen, isClosed()]).toEqual([["closed"], true]);
});

test("bug: a kill switch that was flushed just as it was looked at failed the undoing, closed or not", async () => {
  const { undo, isClosed } = machine(1);
  await undo();
  expect(isClosed()).toBe(true);
});

test("a kill switch that does not close is told, once everything else is done", async () => {
  const { seen, undo } = machine(2);
  expect(await failureOf(undo())).toBeInstanceOf(UndoIncomplete);
  expect(seen).toEqual(["open"]);
});
