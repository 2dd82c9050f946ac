// The tables of docs/security-states.md, as tests read them: a row for each situation, a column for each class of packets.
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface DocumentedState {
  readonly situation: string;
  /** By the name of the class. */
  readonly verdicts: Readonly<Record<string, string>>;
}

/** The first table below a heading, which begins with these words. */
export function documentedStates(heading: string): readonly DocumentedState[] {
  const text = readFileSync(join(import.meta.dir, "../../../docs/security-states.md"), "utf8");
  const lines = text.slice(text.indexOf(`\n${heading}`)).split("\n");
  const first = lines.findIndex((line) => line.startsWith("| "));
  const end = lines.findIndex((line, at) => at > first && !line.startsWith("| "));
  const [head = "", , ...rows] = lines.slice(first, end);
  const classes = cellsOf(head).slice(1);
  return rows.map((line) => {
    const [situation = "", ...verdicts] = cellsOf(line);
    return { situation, verdicts: Object.fromEntries(classes.map((name, at) => [name, verdicts[at] ?? ""])) };
  });
}

function cellsOf(line: string): readonly string[] {
  return line
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim());
}
