// `higgs demo`: the whole system on one Linux machine, in a little internet of namespaces, step by step.
import { Command } from "commander";
import type { Context } from "./context.ts";

export function demoCommand(context: Context): Command {
  return new Command("demo")
    .description("shows everything at work on this one machine, and leaves nothing behind")
    .action(async () => {
      const { runDemo } = await import("./demo-run.ts");
      await runDemo(context);
    });
}

/** What the lab starts on its own hosts; not for people. */
export function labServiceCommand(): Command {
  return new Command("lab-service")
    .argument("<kind>")
    .argument("<order>")
    .action(async (kind: string, order: string) => {
      if (kind === "fetch") {
        const response = await fetch(order, { signal: AbortSignal.timeout(8_000) });
        process.stdout.write(`${(await response.text()).trim()}\n`);
        return;
      }
      const { runLabService } = await import("../lab/service.ts");
      await using _service = await runLabService(kind, order);
      await new Promise<void>((resolve) => {
        process.once("SIGTERM", resolve);
        process.once("SIGINT", resolve);
      });
    });
}
