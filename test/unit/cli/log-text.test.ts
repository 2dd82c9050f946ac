import { expect, test } from "bun:test";
import { createLogger } from "../../../src/base/log.ts";
import { logText, logWriter } from "../../../src/cli/log-text.ts";
import { fakeTerminal } from "./fake-terminal.ts";

const line =
  '{"level":"info","time":"2030-01-10T12:34:56.789Z","peers":2,"exit":"home","msg":"connected to the server"}';

test("logText() makes a line for people of a line of JSON", () => {
  expect(logText(line, fakeTerminal())).toBe(
    "<dim>12:34:56 <green>info  connected to the server  <dim>peers=2 exit=home",
  );
  expect(logText('{"level":"error","time":"2030-01-10T12:34:56Z","msg":"x"}', fakeTerminal())).toBe(
    "<dim>12:34:56 <red>error x",
  );
});

test("logText() reads what the log writes", () => {
  const written: string[] = [];
  createLogger({ level: "debug", write: (text) => void written.push(text) }).warn(
    { code: "x", list: [1] },
    "a message",
  );
  expect(logText(written[0] ?? "", { paint: (_colour, text) => text })).toMatch(
    /^\d\d:\d\d:\d\d warn {2}a message {2}code=x list=\[1\]$/,
  );
});

test("logText() leaves what is no line of ours as it is", () => {
  for (const text of ["", "plain", "null", "5", '"text"', "[1]", "{", "{}"])
    expect(logText(text, fakeTerminal())).toBe(text);
});

test("logWriter() writes text for people and JSON for programs, as asked", () => {
  const shown = (format: "auto" | "text" | "json", isTty: boolean): boolean => {
    const term = fakeTerminal(isTty);
    logWriter(format, term)(line);
    expect(term.lines).toEqual([]); // standard output is for answers
    return term.errors[0] !== line;
  };
  expect([shown("auto", true), shown("auto", false), shown("text", false), shown("json", true)]).toEqual([
    true,
    false,
    true,
    false,
  ]);
});
