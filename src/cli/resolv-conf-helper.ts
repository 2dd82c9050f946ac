// `higgs resolv-conf-helper`: one request of the client's service from standard input, its answer to standard output.
import { Command } from "commander";

/** Longer than any honest request takes. */
const READ_MS = 5_000;

/** For the service manager, which starts it for each connection. */
export function resolvConfHelperCommand(): Command {
  return new Command("resolv-conf-helper")
    .description("sets /etc/resolv.conf for the client's service")
    .action(async () => {
      const { serveHelperRequest } = await import("../roles/resolv-conf-helper.ts");
      process.stdout.write(await serveHelperRequest(process.stdin, AbortSignal.timeout(READ_MS)));
    });
}
