// `higgs client lockdown …`: the kill switch.
import { Command } from "commander";
import { z } from "zod";
import { createLogger } from "../base/log.ts";
import { HiggsError } from "../base/errors.ts";
import { UsageError } from "../roles/config.ts";
import type { LockdownChange } from "../net/lockdown-file.ts";
import { killProcess } from "../net/processes.ts";
import { lockOwner } from "../net/single-instance.ts";
import { type Context, jsonOption } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { RoleHangs } from "./hanging.ts";
import { interruptSignal } from "./interrupt.ts";
import { ask, type SocketKind } from "./local.ts";
import { logWriter } from "./log-text.ts";
import { addSettings, configOf } from "./options.ts";
import type { Terminal } from "./output.ts";

const PLACE = ["state", "run"] as const;
const shape = z
  .object({ lockdown: z.boolean(), lan: z.boolean(), paranoid: z.boolean(), connected: z.boolean() })
  .loose();
type Protection = z.infer<typeof shape>;

export function lockdownCommand(context: Context): Command {
  const command = new Command("lockdown").description("the kill switch: nothing leaves this machine but by the tunnel");
  command.addCommand(onCommand(context));
  command.addCommand(offCommand(context));
  command.addCommand(statusCommand(context));
  command.addCommand(loadCommand(context));
  return command;
}

function onCommand({ term }: Context): Command {
  return addSettings(new Command("on"), "client", [...PLACE, "lan", "untestedPlatform"])
    .description("closes this machine now and for good, whatever ends, breaks or restarts")
    .option("--no-lan", "the LAN is closed")
    .option("--paranoid", "stops frames that bypass the IP layer too (AF_PACKET)")
    .option("--no-paranoid", "as usual")
    .addOption(jsonOption())
    .action(async (flags: { paranoid?: boolean; json?: boolean }, self: Command) => {
      const { lan } = await configOf("client", self);
      const change = { lockdown: true, lan: lan ?? undefined, paranoid: flags.paranoid };
      const { protection } = await decide(self, change);
      show(term, protection, flags.json === true);
    });
}

function offCommand({ term }: Context): Command {
  return addSettings(new Command("off"), "client", PLACE)
    .description("opens this machine again; a connection stays as it is")
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean }, self: Command) => {
      const { protection, undone } = await decide(self, { lockdown: false });
      if (flags.json !== true) for (const line of undone) term.out(line);
      show(term, protection, flags.json === true);
    });
}

function statusCommand({ term, setExitCode }: Context): Command {
  return addSettings(new Command("status"), "client", PLACE)
    .description("whether the kill switch is on")
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean }, self: Command) => {
      const config = await configOf("client", self);
      const answer = await askRunning(config.run, { verb: "lockdown-status", socket: "everyday" });
      const { readLockdown } = await import("../net/lockdown-file.ts");
      const kept = answer === null ? await readLockdown(config.state) : null;
      if (kept?.damage !== undefined && kept.damage !== null && process.getuid?.() !== 0)
        throw notForThisUser(kept.damage);
      const protection = shape.parse(answer ?? { ...kept, connected: false });
      if (kept?.damage !== undefined && kept.damage !== null) {
        term.err(`The kill switch counts as on, as its file is damaged: ${kept.damage}.`);
      }
      show(term, protection, flags.json === true);
      if (isBlocked(protection)) setExitCode(EXIT.blocked);
    });
}

function notForThisUser(why: string): UsageError {
  return new UsageError(`Cannot tell whether the kill switch is on: ${why}.`, {
    code: "not-permitted",
    remedy: "sudo higgs client lockdown status",
  });
}

function loadCommand({ term }: Context): Command {
  return addSettings(new Command("load"), "client", ["state"])
    .description("for an early unit: closes this machine where the kill switch is on, needing no other process")
    .action(async (_flags, self: Command) => {
      const config = await configOf("client", self);
      const { loadLockdown } = await import("../roles/lockdown.ts");
      const log = createLogger({ level: "warn", write: logWriter("text", term) });
      const { what, lockdown } = await loadLockdown(config.state, log, interruptSignal());
      if (lockdown.damage !== null)
        term.err(`The kill switch counts as on, as its file is damaged: ${lockdown.damage}.`);
      if (what === "off") term.out("The kill switch is off: nothing to load.");
      else if (what === "there") term.out("The kill switch is in place already.");
      else term.out("The kill switch is loaded: nothing leaves this machine until a client connects.");
    });
}

/**
 * By the running client; without one, by this process. Opening always works: a client that hangs is ended.
 * Throws RoleHangs for one that is to close.
 */
export async function decide(
  self: Command,
  change: LockdownChange,
): Promise<{ readonly protection: Protection; readonly undone: readonly string[] }> {
  const config = await configOf("client", self);
  // What closes is an everyday verb; what may open is for the socket's owner.
  const closes = change.lockdown === true && change.lan === undefined && change.paranoid === undefined;
  const request = closes
    ? ({ verb: "lockdown-on", socket: "everyday" } as const)
    : ({ verb: "protect", socket: "admin", body: change } as const);
  const ended = await endIfHung(config.run, { mayEnd: change.lockdown === false });
  const answer = await askRunning(config.run, request);
  if (answer !== null) return { protection: shape.parse(answer), undone: ended };
  const { changeStopped } = await import("../roles/lockdown.ts");
  try {
    const { lockdown, undone } = await changeStopped(config, change, interruptSignal());
    return { protection: { ...lockdown, connected: false }, undone: [...ended, ...undone] };
  } catch (thrown) {
    if (ended.length === 0 || !(thrown instanceof HiggsError && thrown.code === "already-running")) throw thrown;
    // The service manager has started it anew meanwhile.
    const again = await askRunning(config.run, request);
    if (again === null) throw thrown;
    return { protection: shape.parse(again), undone: ended };
  }
}

/** Sentences of what was done: none for a client that answers, or does not run. Throws RoleHangs where it may not be ended. */
async function endIfHung(runDir: string, { mayEnd }: { readonly mayEnd: boolean }): Promise<readonly string[]> {
  const signal = interruptSignal();
  try {
    await ask({ role: "client", runDir }, "hello", { signal });
    return [];
  } catch (thrown) {
    if (!(thrown instanceof RoleHangs)) return []; // it does not run, or is not for us to ask: the request itself tells
    const owner = await lockOwner(runDir);
    if (owner === null) return [];
    if (mayEnd && (await killProcess(owner, signal))) return [`Ended the client (process ${owner.pid}), which hung.`];
    throw thrown;
  }
}

/** Null where no client runs. */
async function askRunning(
  runDir: string,
  request: { readonly verb: string; readonly socket: SocketKind; readonly body?: unknown },
): Promise<unknown> {
  try {
    const { verb, ...options } = request;
    return await ask({ role: "client", runDir }, verb, { ...options, signal: interruptSignal() });
  } catch (thrown) {
    if (thrown instanceof HiggsError && thrown.code === "not-running") return null;
    throw thrown;
  }
}

function isBlocked({ lockdown, connected }: Protection): boolean {
  return lockdown && !connected;
}

function show(term: Terminal, protection: Protection, json: boolean): void {
  const { lockdown, lan, paranoid } = protection;
  const blocked = isBlocked(protection);
  if (json) {
    term.out(JSON.stringify({ schema: "higgs.lockdown/1", lockdown, lan, paranoid, blocked }));
    return;
  }
  if (!lockdown) {
    term.out(`Kill switch ${term.paint("yellow", "off")}: without a connection this machine is open.`);
    return;
  }
  const more = [lan ? "the LAN is allowed" : "the LAN is closed", ...(paranoid ? ["raw frames are stopped"] : [])];
  term.out(`Kill switch ${term.paint("green", "on")}: nothing leaves but by the tunnel; ${more.join(", ")}.`);
  if (!blocked) return;
  term.out(`  ${term.paint("red", "!")} Not connected: no internet until you type one of`);
  term.out(`    ${term.paint("dim", "→")} sudo higgs client up`);
  term.out(`    ${term.paint("dim", "→")} sudo higgs client lockdown off`);
}
