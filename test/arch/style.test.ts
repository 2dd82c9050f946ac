// The sources keep the rules of style that can be checked, and each check sees what it is there for.

import { describe, expect, test } from "bun:test";
import { parse, type Source, sourcesIn } from "./source.ts";
import * as rules from "./style.ts";

const everywhere = [rules.nameBreaches, rules.lengthBreaches, rules.moduleBreaches, rules.syntaxBreaches];
const inSrc = [rules.errorBreaches, rules.shellBreaches, rules.sqlBreaches];
type Rule = (source: Source) => string[];

const breaches = (folder: string, checks: readonly Rule[]) =>
  sourcesIn(folder).flatMap((source) => checks.flatMap((check) => check(source)));
const seen = (check: Rule, text: string, path = "src/base/planted.ts") => check(parse(path, text)).length;

describe("the sources", () => {
  test("are there", () => {
    expect(sourcesIn("src").length).toBeGreaterThan(0);
    expect(sourcesIn("test").length).toBeGreaterThan(0);
  });

  test.each(["src", "test", "scripts", "bench"])("keep the common rules in %s/", (folder) => {
    expect(breaches(folder, everywhere)).toEqual([]);
  });

  test("keep the rules on errors, shells and SQL in src/", () => {
    expect(breaches("src", inSrc)).toEqual([]);
  });

  test("skip no test", () => {
    expect(breaches("test", [rules.testBreaches])).toEqual([]);
  });
});

describe("nameBreaches()", () => {
  test.each([
    "src/base/IpAddress.ts",
    "src/base/ip_address.ts",
    "src/base/utils.ts",
    "src/base/helpers.ts",
    "src/a/index.ts",
  ])("sees %s", (path) => {
    expect(seen(rules.nameBreaches, "", path)).toBe(1);
  });
  test("lets names that say something pass", () => {
    for (const name of ["ip.ts", "relay-frame.ts", "carried-wireguard-go.d.ts", "ip.test.ts", "x25519.ts"]) {
      expect(seen(rules.nameBreaches, "", `src/base/${name}`)).toBe(0);
    }
  });
});

describe("lengthBreaches()", () => {
  test("allows 400 lines, and more with a reason on line 2", () => {
    expect(seen(rules.lengthBreaches, "//\n".repeat(400))).toBe(0);
    expect(seen(rules.lengthBreaches, "//\n".repeat(401))).toBe(1);
    expect(seen(rules.lengthBreaches, `// A.\n// long because it is one table.\n${"//\n".repeat(401)}`)).toBe(0);
  });
});

describe("moduleBreaches()", () => {
  test.each([
    "export default 1;",
    'export { a as default } from "./a.ts";',
    'export * from "./a.ts";',
    'import "./a";',
  ])("sees %s", (text) => {
    expect(seen(rules.moduleBreaches, text)).toBe(1);
  });
  test("lets named exports pass", () => {
    expect(seen(rules.moduleBreaches, 'import { a } from "./a.ts"; export { a }; export const b = 1;')).toBe(0);
  });
});

describe("syntaxBreaches()", () => {
  test.each([
    "enum A { B }",
    "const enum A { B }",
    "namespace A { export const b = 1; }",
    "class A { constructor(readonly b: number) {} }",
    "class A { private b = 1; }",
    "class A { private b() {} }",
  ])("sees %s", (text) => {
    expect(seen(rules.syntaxBreaches, text)).toBe(1);
  });
  test("lets what is erasable pass", () => {
    expect(
      seen(rules.syntaxBreaches, "class A { readonly #b = 1; private constructor() {} c() { return this.#b; } }"),
    ).toBe(0);
  });
});

describe("errorBreaches()", () => {
  test.each([
    "class AError extends HiggsError {}",
    'class AError extends HiggsError { override readonly name = "B"; }',
  ])("sees %s", (text) => {
    expect(seen(rules.errorBreaches, text)).toBe(1);
    expect(seen(rules.errorBreaches, `export ${text}`)).toBe(1);
  });
  test("lets a literal name pass", () => {
    expect(seen(rules.errorBreaches, 'class AError extends HiggsError { override readonly name = "AError"; }')).toBe(0);
    expect(seen(rules.errorBreaches, 'class AError extends Error { override name = "AError" as const; }')).toBe(0);
    expect(seen(rules.errorBreaches, "abstract class HiggsError extends Error {}")).toBe(0);
  });
});

describe("shellBreaches()", () => {
  test.each([
    "await Bun.$`ls`;",
    'import { $ } from "bun"; await $`ls`;',
    'spawn("ls", { shell: true });',
    'import { exec } from "node:child_process";',
  ])("sees %s", (text) => {
    expect(seen(rules.shellBreaches, text)).toBe(1);
  });
  test("lets argv arrays pass", () => {
    expect(seen(rules.shellBreaches, 'Bun.spawn(["ip", "link"]); /a/.exec("a");')).toBe(0);
  });
});

describe("sqlBreaches()", () => {
  test.each([
    "db.execute(`select ${a}`);",
    'client().execute("select " + a);',
    "db.execute({ sql: `select ${a}`, args: [] });",
    'db.batch([{ sql: `select ${a}`, args: [] }], "write");',
    "db.run(sql.raw(a));",
  ])("sees %s", (text) => {
    expect(seen(rules.sqlBreaches, text)).toBe(1);
  });
  test("lets parameters and PRAGMAs pass", () => {
    expect(seen(rules.sqlBreaches, "db.execute(`PRAGMA user_version = ${version}`);")).toBe(0);
    expect(seen(rules.sqlBreaches, 'db.execute({ sql: "select ?", args: [a] }); db.run(sql`select ${a}`);')).toBe(0);
  });
});

describe("testBreaches()", () => {
  test.each([
    'test.skip("a", () => {});',
    'test.todo("a");',
    'describe.only("a", () => {});',
    'test.skipIf(true)("a", () => {});',
    'test.each([1]).skip("a", () => {});',
    'test.failing("a", () => {});',
    'xit("a", () => {});',
    'mock.module("a", () => ({}));',
  ])("sees %s", (text) => {
    expect(seen(rules.testBreaches, text, "test/unit/planted.test.ts")).toBe(1);
  });
  test("lets tests pass", () => {
    expect(seen(rules.testBreaches, 'test.each([1])("a", () => {}); describe("b", () => {});')).toBe(0);
  });
});
