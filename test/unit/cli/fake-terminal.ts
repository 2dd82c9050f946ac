// A terminal in memory; colours are written as `<red>text`.
import type { Terminal } from "../../../src/cli/output.ts";

export interface FakeTerminal extends Terminal {
  readonly lines: string[];
  readonly errors: string[];
}

export function fakeTerminal(isTty = true): FakeTerminal {
  const lines: string[] = [];
  const errors: string[] = [];
  return {
    isTty,
    lines,
    errors,
    out: (line) => void lines.push(line),
    err: (line) => void errors.push(line),
    paint: (colour, text) => `<${colour}>${text}`,
    clear: () => undefined,
    status: () => undefined,
  };
}
