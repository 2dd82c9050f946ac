// What the one who runs a server asks of it and changes about its machines: sessions, audit, rename, tag, backup and restore.
import { resolve } from "node:path";
import { Command } from "commander";
import { z } from "zod";
import { UsageError } from "../roles/config.ts";
import { type Context, jsonOption } from "./context.ts";
import { ask } from "./local.ts";
import { addSettings, configOf } from "./options.ts";
import { agoText, bytesText, table } from "./output.ts";

const sent = z.object({ packets: z.number(), bytes: z.number(), dropped: z.number() }).loose();
const sessionsShape = z.object({
  sessions: z.array(
    z
      .object({
        id: z.number(),
        machines: z.array(z.string()),
        since: z.string(),
        udpBytes: z.number(),
        withheld: z.string().nullable(),
        sent: z.array(sent),
      })
      .loose(),
  ),
});
const auditShape = z.object({
  entries: z.array(z.object({ at: z.string(), event: z.string(), detail: z.record(z.string(), z.unknown()) }).loose()),
});

const MOST_ENTRIES = 1000;

function verb(name: string): Command {
  return addSettings(new Command(name), "server", ["run"]);
}

async function askServer(self: Command, name: string, body: unknown = {}, isAdmin = false): Promise<unknown> {
  const { run: runDir } = await configOf("server", self);
  return await ask({ role: "server", runDir }, name, { body, ...(isAdmin ? { socket: "admin" } : {}) });
}

export function sessionsCommand({ term }: Context): Command {
  return verb("sessions")
    .description("which machines exchange packets, and what the relays passed on for them")
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean }, self: Command) => {
      const answer = await askServer(self, "sessions");
      if (flags.json === true) return term.out(JSON.stringify(answer));
      const { sessions } = sessionsShape.parse(answer);
      if (sessions.length === 0) return term.out("No sessions.");
      const rows = sessions.map((one) => [
        one.machines.join(" - "),
        agoText(one.since),
        bytesText(one.sent.reduce((sum, leg) => sum + leg.bytes, one.udpBytes)),
        String(one.sent.reduce((sum, leg) => sum + leg.dropped, 0)),
        one.withheld === null ? "" : "relays withheld",
      ]);
      for (const line of table([["MACHINES", "SINCE", "RELAYED", "DROPPED", ""], ...rows])) term.out(line);
    });
}

export function auditCommand({ term }: Context): Command {
  return verb("audit")
    .description("what changed who is in the network, newest first")
    .option("--limit <n>", "how many entries", "50")
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean; limit: string }, self: Command) => {
      const limit = Number(flags.limit);
      if (!Number.isInteger(limit) || limit < 1 || limit > MOST_ENTRIES) {
        throw new UsageError(`Cannot use "${flags.limit}" for --limit.`, {
          code: "usage",
          remedy: `Name a number from 1 to ${MOST_ENTRIES}.`,
        });
      }
      const answer = await askServer(self, "audit", { limit });
      if (flags.json === true) return term.out(JSON.stringify(answer));
      const rows = auditShape.parse(answer).entries.map((one) => [one.at, one.event, detailText(one.detail)]);
      if (rows.length === 0) return term.out("Nothing has changed yet.");
      for (const line of table(rows)) term.out(line);
    });
}

function detailText(detail: Readonly<Record<string, unknown>>): string {
  const said = Object.entries(detail).filter(([, value]) => value !== null);
  return said.map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join(" ");
}

export function renameCommand({ term }: Context): Command {
  return verb("rename")
    .argument("<old>")
    .argument("<new>")
    .description("gives a machine another name, at once")
    .action(async (name: string, to: string, _options, self: Command) => {
      await askServer(self, "rename", { name, to }, true);
      term.out(`"${name}" is "${to}" now.`);
    });
}

export function tagCommand({ term }: Context): Command {
  return verb("tag")
    .argument("<name>")
    .argument("[tags...]")
    .description("sets a machine's tags, in place of those that it has; without any it has none")
    .action(async (name: string, tags: string[], _options, self: Command) => {
      await askServer(self, "tag", { name, tags }, true);
      term.out(tags.length === 0 ? `"${name}" has no tags now.` : `"${name}" has the tags ${tags.join(", ")} now.`);
    });
}

export function backupCommand({ term }: Context): Command {
  return verb("backup")
    .argument("<file>")
    .description("copies the database into a new file, while the server runs")
    .action(async (file: string, _options, self: Command) => {
      const path = resolve(file);
      await askServer(self, "backup", { path }, true);
      term.out(`Copied the database to ${path}.`);
      term.err(
        "It is of use only together with network.key from the server's state folder: keep both, and keep both secret.",
      );
    });
}

export function restoreCommand({ term }: Context): Command {
  return verb("restore")
    .argument("<file>")
    .description("puts a backup in the place of the database, while the server does not run")
    .action(async (file: string, _options, self: Command) => {
      const config = await configOf("server", self);
      const { restoreServer } = await import("../roles/server-restore.ts"); // the database is loaded by whoever has one
      const { machines, asOf, asidePath } = await restoreServer(config, file);
      const when = asOf === null ? "" : `, as of ${new Date(asOf).toISOString()}`;
      term.out(`Restored the database from ${resolve(file)}: ${machines} machine${machines === 1 ? "" : "s"}${when}.`);
      if (asidePath !== null) term.out(`The one before is kept as ${asidePath}.`);
      term.err(
        "Machines that joined since then join anew, those that were removed since are back (higgs server revoke NAME), and no invite of before is good.",
      );
    });
}
