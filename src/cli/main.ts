// The executable's entry: parses the command line, runs the command, and turns what went wrong into an exit code.
import { CommanderError } from "commander";
import { Stopped } from "../base/async.ts";
import { exitCodeOf, EXIT } from "./exit-codes.ts";
import { printError, terminal } from "./output.ts";
import { program } from "./program.ts";

const term = terminal();
let code: number = EXIT.done;
try {
  await program(term, (next) => void (code = next)).parseAsync(process.argv);
} catch (thrown) {
  if (thrown instanceof CommanderError) {
    // commander has already said what is wrong; help and version are no failure.
    code = thrown.exitCode === 0 ? EXIT.done : EXIT.usage;
  } else if (!(thrown instanceof Stopped)) {
    // a role that was asked to end while it started did so
    printError(term, thrown);
    code = exitCodeOf(thrown);
  }
}
process.exit(code);
