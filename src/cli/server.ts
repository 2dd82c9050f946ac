// `higgs server …`: running the server, inviting machines, and looking at what is going on.
import { Command } from "commander";
import { z } from "zod";
import { addSettings, configOf } from "./options.ts";
import { installCommand, uninstallCommand } from "./install.ts";
import { ask } from "./local.ts";
import { logWriter } from "./log-text.ts";
import { agoText, bytesText, table, type Terminal } from "./output.ts";
import { type Context, jsonOption } from "./context.ts";
import {
  auditCommand,
  backupCommand,
  renameCommand,
  restoreCommand,
  sessionsCommand,
  tagCommand,
} from "./server-actions.ts";
import { durationMs } from "./duration.ts";
import { UsageError } from "../roles/config.ts";

const invited = z.object({ invite: z.string(), command: z.string(), expiresAt: z.string(), uses: z.number() }).loose();
const statusShape = z
  .object({
    version: z.string(),
    uptimeS: z.number(),
    machines: z.object({ total: z.number(), online: z.number() }),
    sessions: z.number(),
    relay: z.object({ connections: z.number(), bytes: z.number(), kernel: z.boolean() }).loose(),
    health: z.array(
      z.object({ severity: z.string(), text: z.string(), remedy: z.string().nullable().optional() }).loose(),
    ),
  })
  .loose();
const machinesShape = z
  .object({
    machines: z.array(
      z
        .object({
          name: z.string(),
          role: z.string(),
          online: z.boolean(),
          ipv4: z.string(),
          publicAddress: z.string().nullable(),
          lastSeen: z.string().nullable(),
          relayed: z.object({ bytes: z.number(), limitBytes: z.number().nullable(), usedUp: z.boolean() }).loose(),
          version: z.string(),
        })
        .loose(),
    ),
  })
  .loose();

export function serverCommand(context: Context): Command {
  const command = addSettings(new Command("server"), "server")
    .description("coordinates, relays and stores: runs on a machine with a public address")
    .action(async (_options, self: Command) => run(context.term, self));
  command.addCommand(
    addSettings(new Command("run"), "server")
      .description("runs in the foreground (the same as higgs server)")
      .action(async (_options, self: Command) => run(context.term, self)),
  );
  command.addCommand(inviteCommand(context));
  command.addCommand(statusCommand(context));
  command.addCommand(machinesCommand(context));
  for (const make of [sessionsCommand, auditCommand, renameCommand, tagCommand, backupCommand, restoreCommand])
    command.addCommand(make(context));
  command.addCommand(installCommand("server", context));
  command.addCommand(uninstallCommand("server", context));
  command.addCommand(
    addSettings(new Command("revoke").argument("<name>"), "server", ["run"])
      .description("removes a machine from the network, at once")
      .action(async (name: string, _options, self: Command) => {
        const { run: runDir } = await configOf("server", self);
        await ask({ role: "server", runDir }, "revoke", { body: { name }, socket: "admin" });
        context.term.out(`Removed "${name}".`);
      }),
  );
  return command;
}

async function run(term: Terminal, self: Command): Promise<void> {
  const config = await configOf("server", self);
  const { runServer } = await import("../roles/server.ts"); // the database is loaded by whoever has one
  await runServer(config, {
    write: logWriter(config.logFormat, term),
    onReady(ready) {
      term.out(`${term.paint("bold", "higgs server")} is running at ${ready.names.join(", ")}`);
      for (const line of ready.invites) {
        term.out("");
        term.out(term.paint("dim", line.role === "node" ? "On the home PC (the exit):" : "On the laptop:"));
        term.out(`  ${line.command}`);
      }
      if (ready.invites.length > 0) {
        term.out("");
        term.out(term.paint("dim", "Each line works once, for an hour. More: higgs server invite node|client"));
      }
    },
  });
}

interface InviteFlags {
  readonly name?: string;
  readonly tag?: readonly string[];
  readonly uses: string;
  readonly expires: string;
  readonly json?: boolean;
}

function inviteCommand({ term }: Context): Command {
  return addSettings(new Command("invite").argument("<role>", "node | client"), "server", ["run"])
    .description("makes an invite and prints the command to paste")
    .option("--name <name>", "the machine's name")
    .option("--tag <tag...>", "tags of the machine")
    .option("--uses <n>", "how many machines may use it", "1")
    .option("--expires <duration>", "until when", "1h")
    .addOption(jsonOption())
    .action(async (role: string, flags: InviteFlags, self: Command) => {
      if (role !== "node" && role !== "client") {
        throw new UsageError(`Cannot invite a "${role}": an invite is for a node or a client.`, {
          code: "usage",
          remedy: "higgs server invite node   or   higgs server invite client",
        });
      }
      const { run: runDir } = await configOf("server", self);
      const uses = Number(flags.uses);
      if (!Number.isInteger(uses) || uses < 1) {
        throw new UsageError(`Cannot use "${flags.uses}" for --uses: it is no number of machines.`, { code: "usage" });
      }
      const body = {
        role,
        name: flags.name ?? null,
        tags: flags.tag ?? [],
        uses,
        expiresMs: durationMs(flags.expires),
      };
      const answer = await ask({ role: "server", runDir }, "invite", { body, socket: "admin" });
      if (flags.json === true) {
        term.out(JSON.stringify(answer));
        return;
      }
      const made = invited.parse(answer);
      term.out(made.command);
      term.err(
        term.paint(
          "dim",
          `Good for ${made.uses === 1 ? "one machine" : `${made.uses} machines`}, until ${made.expiresAt}.`,
        ),
      );
    });
}

function statusCommand({ term }: Context): Command {
  return addSettings(new Command("status"), "server", ["run"])
    .description("what is going on")
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean }, self: Command) => {
      const { run: runDir } = await configOf("server", self);
      const answer = await ask({ role: "server", runDir }, "status");
      if (flags.json === true) {
        term.out(JSON.stringify(answer));
        return;
      }
      const status = statusShape.parse(answer);
      term.out(`${term.paint("green", "running")}; higgs ${status.version}, up ${Math.round(status.uptimeS)} s`);
      const rows = [
        ["machines", `${status.machines.online} online of ${status.machines.total}`],
        ["sessions", String(status.sessions)],
        ["relay", `${status.relay.connections} connections, ${bytesText(status.relay.bytes)} passed on`],
      ];
      for (const line of table(rows)) term.out(`  ${line}`);
      for (const entry of status.health) term.out(`  ${term.paint("yellow", "!")} ${entry.text}`);
    });
}

function machinesCommand({ term }: Context): Command {
  return addSettings(new Command("machines"), "server", ["run"])
    .description("the machines of the network")
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean }, self: Command) => {
      const { run: runDir } = await configOf("server", self);
      const answer = await ask({ role: "server", runDir }, "machines");
      if (flags.json === true) {
        term.out(JSON.stringify(answer));
        return;
      }
      const { machines } = machinesShape.parse(answer);
      if (machines.length === 0) {
        term.out("No machines yet. Invite one: higgs server invite node");
        return;
      }
      const rows = machines.map((machine) => [
        machine.name,
        machine.role,
        machine.online ? "online" : "offline",
        machine.ipv4,
        machine.publicAddress ?? "-",
        machine.online ? "now" : agoText(machine.lastSeen),
        relayedText(machine.relayed),
        machine.version,
      ]);
      const header = ["NAME", "ROLE", "STATE", "TUNNEL", "PUBLIC", "SEEN", "RELAYED", "VERSION"];
      for (const line of table([header, ...rows])) term.out(line);
    });
}

function relayedText(relayed: {
  readonly bytes: number;
  readonly limitBytes: number | null;
  readonly usedUp: boolean;
}): string {
  const { bytes, limitBytes, usedUp } = relayed;
  if (limitBytes === null) return bytesText(bytes);
  return `${bytesText(bytes)} (${usedUp ? "used up" : `${Math.floor((bytes / limitBytes) * 100)} %`})`;
}
