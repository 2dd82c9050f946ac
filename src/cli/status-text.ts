// Health entries as lines for people.
import type { Terminal } from "./output.ts";

export interface HealthLine {
  readonly severity: string;
  readonly text: string;
  readonly remedy: string | null;
}

export function printHealth(term: Terminal, health: readonly HealthLine[]): void {
  for (const entry of health) {
    term.out(`  ${term.paint(entry.severity === "high" ? "red" : "yellow", "!")} ${entry.text}`);
    if (entry.remedy !== null) term.out(`    ${term.paint("dim", "→")} ${entry.remedy}`);
  }
}
