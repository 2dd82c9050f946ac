// What is told of looks at the rules of iptables.
import { expect, test } from "bun:test";
import { afterLook, type Seen } from "../../../src/net/watch-chains.ts";

function told(texts: readonly string[]): readonly boolean[] {
  let seen: Seen = { text: null, due: 0 };
  return texts.map((text) => {
    const after = afterLook(seen, text);
    seen = after.seen;
    return after.isTold;
  });
}

test("afterLook() tells of the first look and of each change, and is quiet in the end", () => {
  const quiet = Array.from({ length: 8 }, () => "ours");
  expect(told(quiet)).toEqual([true, true, true, true, true, false, false, false]);
  expect(told([...quiet, "flushed"]).at(-1)).toBe(true);
});

test("afterLook() tells of rules that were mended and flushed again between two looks", () => {
  const quiet = Array.from({ length: 8 }, () => "ours");
  // At 0.5 s flushed, then mended; flushed again before the look at 1 s.
  expect(told([...quiet, "flushed", "flushed", "ours"]).slice(-3)).toEqual([true, true, true]);
});
