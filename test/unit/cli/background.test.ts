import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  closeSync,
  linkSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { boundedLog, openLog, requireSame } from "../../../src/cli/background.ts";
import { resolveConfig } from "../../../src/roles/config.ts";

let dir = "";
let path = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "higgs-background-"));
  path = join(dir, "client.log");
});
afterEach(() => rmSync(dir, { recursive: true }));

test("openLog() empties the file and keeps it for its owner alone", () => {
  writeFileSync(path, "of an earlier process", { mode: 0o644 });
  closeSync(openLog(path));
  expect(readFileSync(path, "utf8")).toBe("");
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test("openLog() emptied what a link of the log's name led to", () => {
  const other = join(dir, "other");
  writeFileSync(other, "precious");
  symlinkSync(other, path);
  expect(() => openLog(path)).toThrow("no plain file");
  rmSync(path);
  linkSync(other, path);
  expect(() => openLog(path)).toThrow("no plain file");
  expect(readFileSync(other, "utf8")).toBe("precious");
});

test("boundedLog() begins anew when the file is full", () => {
  const log = openLog(path);
  const write = boundedLog((line) => void writeSync(log, `${line}\n`), log, 100);
  for (let n = 0; n < 50; n++) write(`line ${n}`);
  closeSync(log);
  expect(statSync(path).size).toBeLessThanOrEqual(101);
  expect(readFileSync(path, "utf8")).toEndWith("line 49\n");
});

test("requireSame() refuses what was asked for and the running client has not, and nothing that nobody said", async () => {
  const running = { port: null, paths: ["wss"], wireguard: "auto" };
  const wanted = (flags: Readonly<Record<string, unknown>>) => resolveConfig("client", flags, {}, join(dir, "none"));
  requireSame(await wanted({}), running);
  requireSame(await wanted({ paths: "wss", wireguard: "auto" }), running);
  const guessing = { ...running, portGuessing: true };
  requireSame(await wanted({}), guessing);
  const none = await resolveConfig("client", {}, { HIGGS_NO_PORT_GUESSING: "1" }, join(dir, "none"));
  expect(() => requireSame(none, guessing)).toThrow("the running client guesses ports");
  requireSame(none, { ...running, portGuessing: false });
  requireSame(none, running); // of a version that does not tell
  const unmapped = await wanted({ portMapping: false });
  expect(() => requireSame(unmapped, { ...running, portMapping: true })).toThrow("the running client asks for one");
  requireSame(unmapped, running);
  for (const flags of [{ port: "51820" }, { paths: "direct,wss" }, { wireguard: "kernel" }]) {
    const resolved = await wanted(flags);
    expect(() => requireSame(resolved, running)).toThrow("the running client has");
  }
});
