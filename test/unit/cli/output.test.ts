import { expect, test } from "bun:test";
import { agoText, bytesText, harmless, printError, table, terminal } from "../../../src/cli/output.ts";
import { printHealth } from "../../../src/cli/status-text.ts";
import { UsageError } from "../../../src/roles/config.ts";
import { fakeTerminal } from "./fake-terminal.ts";

test("table() makes columns as wide as their widest cell, and cuts trailing blanks", () => {
  const rows = [["NAME", "STATE", ""], ["home", "online", "x"], ["日本", "offline", ""], ["short"]];
  expect(table(rows)).toEqual(["NAME   STATE", "home   online   x", "日本   offline", "short"]);
  expect(table([])).toEqual([]);
});

test("printError() names what is wrong, and what mends it", () => {
  const term = fakeTerminal();
  printError(term, new UsageError("Cannot do it.", { code: "usage", remedy: "higgs server" }));
  printError(term, new Error("plain"));
  printError(term, "text");
  expect(term.errors).toEqual([
    "<red>error: Cannot do it.",
    "  <dim>→ higgs server",
    "<red>error: plain",
    "<red>error: text",
  ]);
  expect(term.lines).toEqual([]);
});

test("printHealth() shows how bad each entry is, with its remedy", () => {
  const term = fakeTerminal();
  printHealth(term, [
    { severity: "high", text: "Bad.", remedy: "Mend it." },
    { severity: "low", text: "Meh.", remedy: null },
  ]);
  expect(term.lines).toEqual(["  <red>! Bad.", "    <dim>→ Mend it.", "  <yellow>! Meh."]);
});

test("harmless() lets nobody speak to the terminal but our own colours", () => {
  expect(harmless("\u001b[31mred\u001b[0m plain é 日本")).toBe("\u001b[31mred\u001b[0m plain é 日本");
  const spoken = [
    "\u001b]0;title\u0007",
    "\u001b[2J",
    "\u001b[1A",
    "\u009b31m",
    "\r",
    "\b\b",
    "\u0000",
    "\u007f",
    "\u001b",
  ];
  for (const text of spoken) expect(harmless(`a${text}b`)).not.toMatch(/[\u001b\u009b\r\b\u0000\u0007\u007f]/);
});

test("terminal() paints nothing where output is no terminal", () => {
  expect(terminal({}).paint("red", "text")).toBe("text");
});

test("bytesText() uses the unit that keeps the number short", () => {
  expect([0, 1023, 1024, 1536, 1048576, 5 * 2 ** 40, 5 * 2 ** 50].map((bytes) => bytesText(bytes))).toEqual([
    "0 B",
    "1023 B",
    "1.0 KiB",
    "1.5 KiB",
    "1.0 MiB",
    "5.0 TiB",
    "5120.0 TiB",
  ]);
});

test("agoText() says how long ago, and never that it is to come", () => {
  const now = Date.parse("2030-01-10T00:00:00Z");
  const before = (seconds: number) => agoText(new Date(now - seconds * 1000).toISOString(), now);
  expect([0, 119, 120, 7199, 7200, 172_799, 172_800].map(before)).toEqual([
    "0 s ago",
    "119 s ago",
    "2 min ago",
    "120 min ago",
    "2 h ago",
    "48 h ago",
    "2 d ago",
  ]);
  expect(before(-60)).toBe("0 s ago");
  expect(agoText(null)).toBe("-");
});
