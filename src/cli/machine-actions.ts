// What `higgs node` and `higgs client` share: joining and leaving.
import { Command } from "commander";
import { endRunning } from "./end-running.ts";
import { addSettings, configOf } from "./options.ts";
import { interruptSignal } from "./interrupt.ts";
import { readInvite } from "./invite-input.ts";
import { isRunning } from "./local.ts";
import type { Terminal } from "./output.ts";
import type { Context } from "./context.ts";

type MachineRole = "node" | "client";

/** Enrols where an invite was given; says so. */
export async function joinIfAsked(
  role: MachineRole,
  config: { readonly join: string | null; readonly state: string; readonly name: string | null },
  term: Terminal,
): Promise<void> {
  if (config.join === null) return;
  const invite = await readInvite(config.join);
  const { joinWithInvite } = await import("../roles/join.ts");
  const enrolment = await joinWithInvite(
    role,
    { invite, stateDir: config.state, name: config.name },
    interruptSignal(),
  );
  term.out(`Joined as ${term.paint("bold", enrolment.name)} (${enrolment.ipv4}).`);
}

export function joinCommand(role: MachineRole, { term }: Context): Command {
  return addSettings(new Command("join").argument("<invite>", "an invite, file:PATH, or - for standard input"), role, [
    "state",
    "name",
  ])
    .description("enrols this machine")
    .action(async (text: string, _options, self: Command) => {
      const config = await configOf(role, self);
      await joinIfAsked(role, { ...config, join: text }, term);
      term.out(role === "node" ? "Start it: sudo higgs node" : "Connect: sudo higgs client up");
    });
}

export function leaveCommand(role: MachineRole, { term }: Context): Command {
  return addSettings(new Command("leave"), role, ["state", "run", "libexec"])
    .description("leaves the network and forgets this machine's keys")
    .action(async (_options, self: Command) => {
      const config = await configOf(role, self);
      const signal = interruptSignal();
      const target = { role, runDir: config.run };
      if (await isRunning(target)) await endRunning(target, "stop", signal);
      const { leaveNetwork } = await import("../roles/leave.ts");
      for (const line of await leaveNetwork(role, config, signal)) term.out(line);
    });
}
