// What `higgs node` and `higgs client` share: joining, leaving, and ending the running process.
import { Command } from "commander";
import { sleep } from "../base/async.ts";
import { LocalApiError } from "../net/local-api.ts";
import { addSettings, configOf } from "./options.ts";
import { interruptSignal } from "./interrupt.ts";
import { readInvite } from "./invite-input.ts";
import { ask, isRunning, type LocalRole } from "./local.ts";
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
      await stopRunning({ role, runDir: config.run }, signal);
      const { leaveNetwork } = await import("../roles/leave.ts");
      for (const line of await leaveNetwork(role, config, signal)) term.out(line);
    });
}

const STOP_TIMEOUT_MS = 20_000;
const STOP_POLL_MS = 50;

/** Ends the role's process, if one runs, and waits until it is gone. */
async function stopRunning(target: LocalRole, signal: AbortSignal): Promise<void> {
  if (!(await isRunning(target))) return;
  await ask(target, "stop", { signal });
  const deadline = performance.now() + STOP_TIMEOUT_MS;
  while (await isRunning(target)) {
    if (performance.now() > deadline) {
      throw new LocalApiError(`Cannot go on: the running ${target.role} does not end.`, {
        code: "timeout",
        remedy: `higgs logs --role ${target.role}`,
      });
    }
    await sleep(STOP_POLL_MS, signal);
  }
}
