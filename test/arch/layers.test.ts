// Imports point one way, and the lower layers touch neither clock nor operating system.

import { describe, expect, test } from "bun:test";
import { layerBreaches, layers } from "./layers.ts";
import { parse, sourcesIn } from "./source.ts";

const breachesOf = (path: string, text: string) => layerBreaches(parse(path, text));

describe("layerBreaches()", () => {
  test("finds nothing in src/", () => {
    const sources = sourcesIn("src");
    expect(sources.length).toBeGreaterThan(0);
    expect(sources.flatMap(layerBreaches)).toEqual([]);
  });

  test.each([
    ["a value import", 'import { a } from "../net/exec.ts";'],
    ["a type import", 'import type { A } from "../net/exec.ts";'],
    ["an inline type import", 'import { type A } from "../net/exec.ts";'],
    ["a re-export", 'export { a } from "../net/exec.ts";'],
    ["a star export", 'export * from "../net/exec.ts";'],
    ["an import for its effect", 'import "../net/exec.ts";'],
    ["an import expression", 'await import("../net/exec.ts");'],
    ["an import type", 'type A = import("../net/exec.ts").A;'],
  ])("sees %s that points the wrong way", (_what, text) => {
    expect(breachesOf("src/proto/stun.ts", text)).toHaveLength(1);
    expect(breachesOf("src/peer/stun.ts", text)).toEqual([]);
  });

  test("is not misled by comments and strings", () => {
    const text = '// import "../net/exec.ts";\nexport const text = \'import "../net/exec.ts"; Date.now();\';';
    expect(breachesOf("src/proto/stun.ts", text)).toEqual([]);
  });

  test("keeps node, client and server apart, and cli and lab from being imported", () => {
    expect(breachesOf("src/node/a.ts", 'import "../client/b.ts";')).toHaveLength(1);
    expect(breachesOf("src/client/a.ts", 'import "../node/b.ts";')).toHaveLength(1);
    expect(breachesOf("src/server/a.ts", 'import "../peer/b.ts";')).toHaveLength(1);
    expect(breachesOf("src/roles/a.ts", 'import "../cli/b.ts";')).toHaveLength(1);
    expect(breachesOf("src/roles/a.ts", 'import "../lab/b.ts";')).toHaveLength(1);
    expect(breachesOf("src/lab/a.ts", 'import "../server/b.ts";')).toHaveLength(1);
    expect(breachesOf("src/cli/a.ts", 'import "../lab/b.ts"; import "../roles/c.ts";')).toEqual([]);
  });

  test("knows every folder of src/, and says so of one it doesn't know", () => {
    expect(breachesOf("src/helpers/a.ts", "")).toHaveLength(1);
    expect(breachesOf("src/a.ts", "")).toHaveLength(1);
  });

  test("lets nothing but the server reach out of src/, for its migrations", () => {
    expect(breachesOf("src/server/db/a.ts", 'import sql from "../../../migrations/1.sql";')).toEqual([]);
    expect(breachesOf("src/peer/a.ts", 'import sql from "../../migrations/1.sql";')).toHaveLength(1);
    expect(breachesOf("src/peer/a.ts", 'import pkg from "../../package.json";')).toHaveLength(1);
  });

  test.each([
    'import { readFile } from "node:fs/promises";',
    'import { spawn } from "bun";',
    'Bun.file("x");',
    'await fetch("x");',
    'new WebSocket("x");',
    "process.stdout.write('x');",
    "process.env.HOME;",
  ])("sees I/O in base and proto: %s", (text) => {
    expect(breachesOf("src/base/a.ts", text).length).toBeGreaterThan(0);
    expect(breachesOf("src/proto/a.ts", text).length).toBeGreaterThan(0);
  });

  test.each([
    "Date.now();",
    "new Date();",
    "performance.now();",
    "setTimeout(() => {}, 1);",
    "AbortSignal.timeout(1);",
  ])("sees a clock in proto: %s", (text) => {
    expect(breachesOf("src/proto/a.ts", text)).toHaveLength(1);
    expect(breachesOf("src/base/a.ts", text)).toEqual([]);
  });

  test("lets arithmetic on a given time pass in proto", () => {
    expect(breachesOf("src/proto/a.ts", "export const at = new Date(12).toISOString();")).toEqual([]);
  });

  test("keeps the environment, the database and the command line in their places", () => {
    expect(breachesOf("src/net/a.ts", "process.env.HOME;")).toHaveLength(1);
    expect(breachesOf("src/roles/config.ts", "process.env.HOME;")).toEqual([]);
    expect(breachesOf("src/node/a.ts", 'import { createClient } from "@libsql/client";')).toHaveLength(1);
    expect(breachesOf("src/roles/a.ts", 'import { Command } from "commander";')).toHaveLength(1);
    expect(breachesOf("src/server/a.ts", 'import { Database } from "bun:sqlite";')).toHaveLength(1);
    expect(breachesOf("src/net/a.ts", "await import(name);")).toHaveLength(1);
  });

  test("has a reason for every layer", () => {
    for (const { because } of Object.values(layers)) expect(because).toMatch(/^[A-Z].*\.$/);
  });
});
