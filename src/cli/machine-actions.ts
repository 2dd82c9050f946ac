// What `higgs node` and `higgs client` share: joining and leaving.
import { Command } from "commander";
import { endIfRunning } from "./end-running.ts";
import { addSettings, configOf, readConfig } from "./options.ts";
import { interruptSignal } from "./interrupt.ts";
import { readInvite } from "./invite-input.ts";
import type { Terminal } from "./output.ts";
import type { Source } from "../roles/config.ts";
import type { ProxySetting } from "../roles/proxy-setting.ts";
import { holdsPassword } from "../roles/proxy.ts";
import type { Context } from "./context.ts";

type MachineRole = "node" | "client";

/** Enrols where an invite was given; says so. */
export async function joinIfAsked(
  role: MachineRole,
  config: {
    readonly join: string | null;
    readonly state: string;
    readonly name: string | null;
    readonly proxy: ProxySetting | null;
  },
  term: Terminal,
): Promise<void> {
  if (config.join === null) return;
  if (role === "client") await requireUnlockedTo("join", config.state);
  const invite = await readInvite(config.join);
  const { joinWithInvite } = await import("../roles/join.ts");
  const enrolment = await joinWithInvite(
    role,
    { invite, stateDir: config.state, name: config.name, proxy: config.proxy },
    interruptSignal(),
  );
  term.out(`Joined as ${term.paint("bold", enrolment.name)} (${enrolment.ipv4}).`);
}

/** Arguments are for everybody on the machine to read; what was said once is remembered, and need not be said again. */
export function warnOfPassword(
  resolved: {
    readonly config: { readonly proxy: ProxySetting | null };
    readonly sources: Readonly<Record<string, Source>>;
  },
  term: Terminal,
): void {
  if (resolved.sources["proxy"] !== "flag" || !holdsPassword(resolved.config.proxy)) return;
  term.err(
    "warning: Others on this machine can read a password in a command line; --proxy file:PATH keeps it from them.",
  );
}

export function joinCommand(role: MachineRole, { term }: Context): Command {
  return addSettings(new Command("join").argument("<invite>", "an invite, file:PATH, or - for standard input"), role, [
    "state",
    "name",
    "proxy",
  ])
    .description("enrols this machine")
    .action(async (text: string, _options, self: Command) => {
      const resolved = await readConfig(role, self);
      warnOfPassword(resolved, term);
      await joinIfAsked(role, { ...resolved.config, join: text }, term);
      term.out(role === "node" ? "Start it: sudo higgs node" : "Connect: sudo higgs client up");
    });
}

export function leaveCommand(role: MachineRole, { term }: Context): Command {
  return addSettings(new Command("leave"), role, ["state", "run", "libexec", "proxy"])
    .description("leaves the network and forgets this machine's keys")
    .action(async (_options, self: Command) => {
      const config = await configOf(role, self);
      const signal = interruptSignal();
      const target = { role, runDir: config.run };
      if (role === "client") await requireUnlockedTo("leave", config.state);
      await endIfRunning(target, "stop", signal);
      const { leaveNetwork } = await import("../roles/leave.ts");
      for (const line of await leaveNetwork(role, config, signal)) term.out(line);
    });
}

/** The kill switch would keep it from the server. */
async function requireUnlockedTo(what: string, stateDir: string): Promise<void> {
  const { requireUnlocked } = await import("../roles/lockdown.ts");
  await requireUnlocked(what, stateDir);
}
