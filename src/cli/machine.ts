// Commands of any machine about what it knows and keeps: trust, state, logs and config.
import { Command, Option } from "commander";
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import { isMachineName } from "../base/hostname.ts";
import { usualDirs } from "../net/platform.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { TrustStore } from "../peer/trust-store.ts";
import { type AnyRole, settingsOf, UsageError } from "../roles/config.ts";
import { proxyShown } from "../roles/proxy.ts";
import type { ProxySetting } from "../roles/proxy-setting.ts";
import { cleanState, journalRole } from "../roles/state.ts";
import { interruptSignal } from "./interrupt.ts";
import { ask, askStream, chooseRole } from "./local.ts";
import { logText } from "./log-text.ts";
import { readConfig } from "./options.ts";
import { table } from "./output.ts";
import { type Context, jsonOption } from "./context.ts";
import { type Place, placed } from "./place.ts";
import { stateListCommand, stateVerifyCommand } from "./state.ts";

const machines = z.object({
  machines: z.array(z.object({ name: z.string(), identity: z.string(), role: z.string(), serial: z.string() }).loose()),
});

async function machineRole(flags: Place): Promise<"node" | "client"> {
  if (flags.role === "node" || flags.role === "client") return flags.role;
  const { role } = await chooseRole(["node", "client"], flags);
  return role === "node" ? "node" : "client";
}

function stateDirOf(role: AnyRole, flags: Place): string {
  return flags.state ?? process.env.HIGGS_STATE ?? `${usualDirs().state}/${role}`;
}

export function trustCommand({ term }: Context): Command {
  const command = new Command("trust").description("the machines whose identity this one holds on to");
  command.addCommand(
    placed(new Command("list"), ["node", "client"])
      .description("their names and keys")
      .addOption(jsonOption())
      .action(async (flags: Place & { json?: boolean }) => {
        const role = await machineRole(flags);
        const known = await fromRunning(flags, { role, verb: "trust-list", body: {} }, async () => ({
          machines: (await TrustStore.open(await openStateDir(stateDirOf(role, flags)))).list(),
        }));
        const list = machines.parse(known).machines;
        if (flags.json === true) {
          term.out(JSON.stringify({ schema: "higgs.trust-list/1", machines: list }));
          return;
        }
        if (list.length === 0) term.out("No machine is known here yet.");
        for (const line of table(list.map((one) => [one.name, one.role, one.identity, `serial ${one.serial}`])))
          term.out(line);
      }),
  );
  command.addCommand(
    placed(new Command("forget").argument("<name>"), ["node", "client"])
      .description("takes a machine's new identity at its next appearance")
      .action(async (name: string, flags: Place) => {
        const role = await machineRole(flags);
        await fromRunning(flags, { role, verb: "trust-forget", body: { name } }, async () => {
          const store = await TrustStore.open(await openStateDir(stateDirOf(role, flags)));
          if (isMachineName(name) && (await store.forget(name))) return {};
          throw new UsageError(`Cannot forget "${name}": no machine of that name is known here.`, {
            code: "unknown-machine",
            remedy: "higgs trust list",
          });
        });
        term.out(`Forgot "${name}".`);
      }),
  );
  return command;
}

/** Asks the running role, whose memory is newer than its file; without one, the file. */
async function fromRunning(
  flags: Place,
  request: { readonly role: "node" | "client"; readonly verb: "trust-list" | "trust-forget"; readonly body: unknown },
  otherwise: () => Promise<unknown>,
): Promise<unknown> {
  const { role, verb, body } = request;
  const runDir = flags.run ?? process.env.HIGGS_RUN ?? `${usualDirs().run}/${role}`;
  try {
    return await ask({ role, runDir }, verb, { body, socket: verb === "trust-forget" ? "admin" : "everyday" });
  } catch (thrown) {
    if (thrown instanceof HiggsError && thrown.code === "not-running") return await otherwise();
    throw thrown;
  }
}

export function stateCommand(context: Context): Command {
  const { term } = context;
  const command = new Command("state").description("what higgs changed on this machine");
  command.addCommand(stateListCommand(term));
  command.addCommand(stateVerifyCommand(context));
  command.addCommand(
    placed(new Command("clean"), ["server", "node", "client"])
      .description("puts back what a server, node or client that is gone has left")
      .addOption(new Option("--after-stop", "for the service manager: only after an end in order").hideHelp())
      .action(async (flags: Place & { afterStop?: boolean }) => {
        // After a crash the tunnel carries on, and the next start takes it over (systemd.exec(5), $SERVICE_RESULT).
        if (flags.afterStop === true && process.env.SERVICE_RESULT !== "success") return;
        const failures: unknown[] = [];
        for (const role of await rolesToClean(flags)) {
          try {
            const lines = await cleanState(role, {
              stateDir: stateDirOf(role, flags),
              runDir: flags.run ?? process.env.HIGGS_RUN ?? `${usualDirs().run}/${role}`,
            });
            for (const line of lines) term.out(`${role}: ${line}`);
            if (lines.length === 0) term.out(`${role}: nothing to put back.`);
          } catch (thrown) {
            // Nobody asked for a living role to be undone; the others are none of its business.
            if (flags.role === undefined && isRunningElsewhere(thrown)) term.out(`${role}: is running: left alone.`);
            else failures.push(thrown);
          }
        }
        if (failures.length > 0) throw failures[0];
      }),
  );
  return command;
}

const ROLES = ["server", "node", "client"] as const;

/** The named role, or all; a state folder that was named is that role's whose journal is in it. */
async function rolesToClean(flags: Place): Promise<readonly AnyRole[]> {
  if (flags.role !== undefined) {
    const role = ROLES.find((one) => one === flags.role);
    if (role !== undefined) return [role];
    throw new UsageError(`Cannot use the role "${flags.role}" here.`, {
      code: "usage",
      remedy: `--role ${ROLES.join(" | ")}`,
    });
  }
  const stateDir = flags.state ?? process.env.HIGGS_STATE;
  const owner = stateDir === undefined ? null : await journalRole(stateDir);
  return owner === null ? ROLES : [owner];
}

function isRunningElsewhere(thrown: unknown): boolean {
  return thrown instanceof HiggsError && thrown.code === "already-running" && thrown.detail.pid !== undefined;
}

export function logsCommand({ term }: Context): Command {
  return placed(new Command("logs"), ["server", "node", "client"])
    .description("the running process' last lines")
    .option("-f, --follow", "and each new one")
    .addOption(jsonOption())
    .action(async (flags: Place & { follow?: boolean; json?: boolean }) => {
      const target = await chooseRole(["server", "node", "client"], flags);
      const signal = interruptSignal();
      for await (const line of askStream(target, "logs", { body: { follow: flags.follow === true }, signal })) {
        term.out(flags.json === true ? line : logText(line, term));
      }
    });
}

export function configCommand({ term }: Context): Command {
  const command = new Command("config").description("the effective settings");
  command.addCommand(
    new Command("show")
      .description("each setting's value, and where it came from")
      .requiredOption("--role <role>", "server | node | client")
      .addOption(jsonOption())
      .action(async (flags: { role: string; json?: boolean }, self: Command) => {
        const role = flags.role;
        if (role !== "server" && role !== "node" && role !== "client") {
          throw new UsageError(`Cannot show the settings of "${role}".`, {
            code: "usage",
            remedy: "--role server | node | client",
          });
        }
        const { config, sources } = await readConfig(role, self);
        const values: Record<string, unknown> = { ...config };
        const from: Record<string, string> = { ...sources };
        if (values["join"] != null) values["join"] = "(an invite)";
        if ("proxy" in config) {
          const shown = await proxyShown(config.state, values["proxy"] as ProxySetting | null);
          values["proxy"] = shown.value;
          if (shown.isRemembered) from["proxy"] = "last time";
        }
        const settings = Object.entries(settingsOf(role)).map(([key, setting]) => ({
          flag: setting.flags.split(" ")[0] ?? key,
          value: values[key],
          from: from[key] ?? "default",
        }));
        if (flags.json === true) {
          term.out(JSON.stringify({ schema: "higgs.config/1", role, settings }));
          return;
        }
        const rows = settings.map((one) => [one.flag, JSON.stringify(one.value), one.from]);
        for (const line of table(rows)) term.out(line);
      }),
  );
  return command;
}
