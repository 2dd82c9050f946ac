// Line 1 of every file is its purpose, and ARCHITECTURE.md says the same.

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { rowsOf, sentenceOf, tableBreaches } from "./file-table.ts";
import { filesIn, projectDir } from "./source.ts";

describe("tableBreaches()", () => {
  test("finds nothing between ARCHITECTURE.md and src/", () => {
    const text = (path: string) => readFileSync(join(projectDir, path), "utf8");
    const files = new Map(filesIn("src").map((path) => [path, text(path).split("\n")[0]]));
    expect(files.size).toBeGreaterThan(0);
    expect(tableBreaches(rowsOf(text("ARCHITECTURE.md")), files)).toEqual([]);
  });

  const rows = rowsOf("| file | purpose |\n|---|---|\n| `src/base/ip.ts` | IP addresses. |\n");

  test("accepts a table that is the files", () => {
    expect(tableBreaches(rows, new Map([["src/base/ip.ts", "// IP addresses."]]))).toEqual([]);
  });

  test.each([
    ["another sentence", [["src/base/ip.ts", "// Addresses."]]],
    ["a file without a sentence", [["src/base/ip.ts", 'import "x";']]],
    ["a row without a file", []],
    [
      "a file without a row",
      [
        ["src/base/ip.ts", "// IP addresses."],
        ["src/base/b.ts", "// Another."],
      ],
    ],
  ] as [string, [string, string][]][])("sees %s", (_what, files) => {
    expect(tableBreaches(rows, new Map(files))).toHaveLength(1);
  });

  test("sees a row that is there twice", () => {
    expect(tableBreaches([...rows, ...rows], new Map([["src/base/ip.ts", "// IP addresses."]]))).toHaveLength(1);
  });
});

describe("sentenceOf()", () => {
  test("takes one line comment that ends with a full stop", () => {
    expect(sentenceOf("// IP addresses.")).toBe("IP addresses.");
    expect(sentenceOf("// IP addresses")).toBeUndefined();
    expect(sentenceOf("/* IP addresses. */")).toBeUndefined();
    expect(sentenceOf("")).toBeUndefined();
  });
});
