// `higgs panic`: everything of higgs off this machine, at once.
import { Command } from "commander";
import type { Context } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { interruptSignal } from "./interrupt.ts";

export function panicCommand({ term, setExitCode }: Context): Command {
  return new Command("panic")
    .description("ends every role and takes away all that higgs changed on this machine; switches the kill switch off")
    .action(async () => {
      const { panic } = await import("../roles/panic.ts");
      let done = 0;
      let failed = 0;
      const says = {
        done(line: string): void {
          done++;
          term.out(line);
        },
        failed(line: string): void {
          failed++;
          term.err(`${term.paint("red", "!")} ${line}`);
        },
      };
      await panic(says, interruptSignal());
      if (failed > 0) setExitCode(EXIT.failed);
      else
        term.out(
          done === 0
            ? "Nothing of higgs was found on this machine."
            : "Nothing of higgs is left on this machine's network.",
        );
    });
}
