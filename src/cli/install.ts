// `install` and `uninstall` of every role: the role as a systemd service with the least privileges.
import { Command } from "commander";
import { z } from "zod";
import { type AnyRole, type Config, type Resolved, UsageError } from "../roles/config.ts";
import { self } from "./background.ts";
import type { Context } from "./context.ts";
import { interruptSignal } from "./interrupt.ts";
import { ask } from "./local.ts";
import { joinIfAsked } from "./machine-actions.ts";
import { addSettings, configOf, readConfig } from "./options.ts";
import type { Terminal } from "./output.ts";

export function installCommand(role: AnyRole, { term }: Context): Command {
  return addSettings(new Command("install"), role)
    .description("runs it as a service, now and at every boot, as the user higgs with the least privileges")
    .action(async (_options, command: Command) => {
      const resolved = await readConfig(role, command);
      const options = { ...resolved, executablePath: executable(role) };
      const { installRole, requireReady } = await import("../roles/install.ts");
      await requireReady(role, options);
      if (role !== "server") await joinIfAsked(role, (resolved as Resolved<"node" | "client">).config, term);
      for (const line of await installRole(role, options, interruptSignal())) term.out(line);
      if (role === "server") await firstInvites(resolved.config, term);
    });
}

export function uninstallCommand(role: AnyRole, { term }: Context): Command {
  return addSettings(new Command("uninstall"), role, ["state", "run"])
    .description("ends the service and takes away what install made; keys and database stay")
    .action(async (_options, command: Command) => {
      const config = await configOf(role, command);
      const { uninstallRole } = await import("../roles/install.ts");
      for (const line of await uninstallRole(role, { config }, interruptSignal())) term.out(line);
    });
}

/** Throws UsageError for a program that is run from its sources: a service would need all of them. */
function executable(role: AnyRole): string {
  const [path = "", ...rest] = self();
  if (rest.length === 0) return path;
  throw new UsageError("Cannot install the sources as a service: it is the executable that is installed.", {
    code: "usage",
    remedy: `npm run build && sudo install -m 755 dist/higgs /usr/local/bin/higgs && sudo higgs ${role} install`,
  });
}

const machines = z.object({ machines: z.array(z.unknown()) });
const invited = z.object({ command: z.string() });

/** A server in the foreground shows them itself; a service's words would be in a journal that others read. */
async function firstInvites(config: Pick<Config<"server">, "run">, term: Terminal): Promise<void> {
  const target = { role: "server", runDir: config.run } as const;
  if (machines.parse(await ask(target, "machines")).machines.length > 0) return;
  for (const role of ["node", "client"] as const) {
    const body = { role, name: null, tags: [], uses: 1, expiresMs: 3_600_000 };
    const { command } = invited.parse(await ask(target, "invite", { body, socket: "admin" }));
    term.out("");
    term.out(term.paint("dim", role === "node" ? "On the home PC (the exit):" : "On the laptop:"));
    term.out(`  ${command}`);
  }
}
