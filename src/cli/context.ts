// What every command is given, and the option that every reading command has.
import { Option } from "commander";
import type { Terminal } from "./output.ts";

export interface Context {
  readonly term: Terminal;
  /** The process' exit code, where it is not 0 and nothing was thrown. */
  readonly setExitCode: (code: number) => void;
}

export function jsonOption(): Option {
  return new Option("--json", "one JSON object on standard output");
}
