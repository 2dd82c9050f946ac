// A log line for people, from the JSON that the log writes.
import type { Terminal } from "./output.ts";

const COLOURS = { error: "red", warn: "yellow", info: "green", debug: "dim", trace: "dim" } as const;

/** `12:34:56 info  connected to the server  peers=2`; what is no line of ours stays as it is. */
export function logText(line: string, term: Pick<Terminal, "paint">): string {
  const entry = entryOf(line);
  if (entry === null) return line; // somebody else's line
  const { time, level, msg, ...fields } = entry;
  const name = String(level);
  const colour = COLOURS[name as keyof typeof COLOURS] ?? "dim";
  const clock = String(time).slice(11, 19);
  const facts = Object.entries(fields)
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(" ");
  return `${term.paint("dim", clock)} ${term.paint(colour, name.padEnd(5))} ${String(msg)}${facts === "" ? "" : `  ${term.paint("dim", facts)}`}`;
}

function entryOf(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && "msg" in value ? { ...value } : null;
  } catch {
    return null; // no JSON
  }
}

/** Where a role in the foreground writes its log. */
export function logWriter(format: "auto" | "text" | "json", term: Terminal): (line: string) => void {
  const text = format === "text" || (format === "auto" && term.isTty);
  return (line) => term.err(text ? logText(line, term) : line);
}
