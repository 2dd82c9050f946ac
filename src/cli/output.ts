// What people and scripts read: aligned tables and colour on a terminal, one JSON object with --json, errors with their remedy.
import { styleText } from "node:util";
import { HiggsError, errorText } from "../base/errors.ts";

type Colour = "green" | "yellow" | "red" | "dim" | "bold" | "cyan";

export interface Terminal {
  readonly isTty: boolean;
  out(line: string): void;
  err(line: string): void;
  paint(colour: Colour, text: string): string;
  /** Empties the screen, on a terminal. */
  clear(): void;
  /** Replaces the line that the cursor is on, on a terminal; cut to its width, so that it stays one line. */
  status(text: string): void;
}

/**
 * Names and texts come from the network: control characters other than our own colours would let them speak to the terminal.
 * C0, DEL and C1 (ECMA-48); the only escape sequence that stays is "select graphic rendition".
 */
export function harmless(line: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what this is about
  return line.replace(/\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]/g, "\ufffd");
}

export function terminal(env: Readonly<Record<string, string | undefined>> = process.env): Terminal {
  const isTty = process.stdout.isTTY;
  const coloured = isTty && (env.NO_COLOR === undefined || env.NO_COLOR === "");
  return {
    isTty,
    out: (line) => void process.stdout.write(`${harmless(line)}\n`),
    err: (line) => void process.stderr.write(`${harmless(line)}\n`),
    status: (text) => {
      if (isTty) process.stdout.write(`\r\x1b[2K${harmless(text).slice(0, process.stdout.columns - 1)}`);
    },
    clear: () => void (isTty && process.stdout.write("\x1b[H\x1b[2J")),
    paint: (colour, text) => (coloured ? styleText(colour, text, { validateStream: false }) : text),
  };
}

/** Columns as wide as their widest cell; trailing blanks are cut. Cells must hold no colour. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, Bun.stringWidth(cell))));
  return rows.map((row) =>
    row
      .map((cell, i) => cell + " ".repeat((widths[i] ?? 0) - Bun.stringWidth(cell)))
      .join("  ")
      .trimEnd(),
  );
}

export function printError(term: Terminal, thrown: unknown): void {
  term.err(`${term.paint("red", "error:")} ${errorText(thrown)}`);
  if (thrown instanceof HiggsError && thrown.remedy !== undefined)
    term.err(`  ${term.paint("dim", "→")} ${thrown.remedy}`);
}

export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** `12 s ago`, `3 min ago`; a dash for never. */
export function agoText(iso: string | null, now: number = Date.now()): string {
  if (iso === null) return "-";
  const seconds = Math.max(0, Math.round((now - Date.parse(iso)) / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} d ago`;
}
