// `higgs node …`: the exit at home.
import { Command } from "commander";
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { type Resolved, UsageError } from "../roles/config.ts";
import { chooseSettings, shownSettings } from "../roles/node-settings.ts";
import { endRunning } from "./end-running.ts";
import { installCommand, uninstallCommand } from "./install.ts";
import { interruptSignal } from "./interrupt.ts";
import { ask } from "./local.ts";
import { logWriter } from "./log-text.ts";
import { requireRole } from "../net/required-role.ts";
import { joinCommand, joinIfAsked, leaveCommand, warnOfPassword } from "./machine-actions.ts";
import { addSettings, configOf, readConfig } from "./options.ts";
import { agoText, bytesText, table, type Terminal } from "./output.ts";
import { type Context, jsonOption } from "./context.ts";
import { portMappingShape, portMappingText, printHealth } from "./status-text.ts";
import { EXIT } from "./exit-codes.ts";
import { policyLines, policyShape } from "./exit-text.ts";

const statusShape = z
  .object({
    state: z.string(),
    name: z.string(),
    server: z.string().nullable(),
    tunnel: z.object({ interface: z.string(), ipv4: z.string(), implementation: z.string() }).loose(),
    exit: z
      .object({
        enabled: z.boolean(),
        ready: z.boolean(),
        ipv6: z.boolean(),
        interface: z.string().nullable(),
        publicAddress: z.string().nullable(),
        policy: policyShape.optional(),
        record: z.string().nullable().optional(),
      })
      .loose(),
    portMapping: portMappingShape,
    clients: z.array(
      z
        .object({
          name: z.string(),
          path: z.string(),
          rxBytes: z.number(),
          txBytes: z.number(),
          lastHandshake: z.string().nullable(),
        })
        .loose(),
    ),
    health: z.array(z.object({ severity: z.string(), text: z.string(), remedy: z.string().nullable() }).loose()),
  })
  .loose();

export function nodeCommand(context: Context): Command {
  const { term } = context;
  const command = addSettings(new Command("node"), "node")
    .description("an exit to the internet at home, behind a router")
    .action(async (_options, self: Command) => run(term, self));
  command.addCommand(
    addSettings(new Command("run"), "node")
      .description("runs in the foreground (the same as higgs node)")
      .action(async (_options, self: Command) => run(term, self)),
  );
  command.addCommand(joinCommand("node", context));
  command.addCommand(statusCommand(context));
  command.addCommand(
    addSettings(new Command("down"), "node", ["run"])
      .description("ends the running node and undoes what it changed")
      .action(async (_options, self: Command) => {
        const { run: runDir } = await configOf("node", self);
        await endRunning({ role: "node", runDir }, "down", interruptSignal());
        term.out("The node has ended; its machine is as it was.");
      }),
  );
  command.addCommand(setCommand(context));
  command.addCommand(getCommand(context));
  command.addCommand(leaveCommand("node", context));
  command.addCommand(installCommand("node", context));
  command.addCommand(uninstallCommand("node", context));
  return command;
}

async function run(term: Terminal, self: Command): Promise<void> {
  const again = () => readConfig("node", self);
  const resolved = await again();
  const { config } = resolved;
  requireRole("node", config);
  warnOfPassword(resolved, term);
  await joinIfAsked("node", config, term);
  const { runNode } = await import("../roles/node.ts");
  await runNode(
    { resolved, again },
    {
      write: logWriter(config.logFormat, term),
      onReady: (name) => term.out(`${term.paint("bold", "higgs node")} "${name}" is running.`),
    },
  );
}

function statusCommand({ term, setExitCode }: Context): Command {
  return addSettings(new Command("status"), "node", ["run"])
    .description("what this node does, and for whom")
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean }, self: Command) => {
      const { run: runDir } = await configOf("node", self);
      const answer = await ask({ role: "node", runDir }, "status");
      const status = statusShape.parse(answer);
      if (flags.json === true) term.out(JSON.stringify(answer));
      else printStatus(term, status);
      if (status.state !== "connected") setExitCode(EXIT.notConnected);
      else if (status.health.length > 0) setExitCode(EXIT.degraded);
    });
}

function setCommand({ term }: Context): Command {
  return addSettings(new Command("set"), "node", ["state", "run"])
    .argument("<key=value...>", "settings of the exit, such as exit-mail=yes; KEY= puts the default back")
    .description("changes what this node's exit lets out, opens and keeps, at once and for good")
    .action(async (pairs: readonly string[], _options, self: Command) => {
      const choices = Object.fromEntries(pairs.map(choiceOf));
      const resolved = await readConfig("node", self);
      const { config } = resolved;
      const target = { role: "node" as const, runDir: config.run };
      try {
        await ask(target, "set", { body: { choices }, socket: "admin" });
      } catch (thrown) {
        if (!(thrown instanceof HiggsError && thrown.code === "not-running")) throw thrown;
        await chooseSettings(await openStateDir(config.state), resolved, choices);
      }
      for (const [key, value] of Object.entries(choices)) term.out(`${key} is now ${value ?? "as it was at first"}.`);
    });
}

function choiceOf(pair: string): [string, string | null] {
  const at = pair.indexOf("=");
  if (at <= 0) {
    throw new UsageError(`Cannot set "${pair}": it is no KEY=VALUE.`, {
      code: "usage",
      remedy: "higgs node get shows what there is.",
    });
  }
  const value = pair.slice(at + 1);
  return [pair.slice(0, at), value === "" ? null : value];
}

const settingsShape = z.object({
  settings: z.array(z.object({ name: z.string(), value: z.unknown(), from: z.string() })),
});

function getCommand({ term }: Context): Command {
  return addSettings(new Command("get"), "node", ["state", "run"])
    .argument("[key]")
    .description("what this node's exit lets out, opens and keeps")
    .addOption(jsonOption())
    .action(async (key: string | undefined, flags: { json?: boolean }, self: Command) => {
      const resolved = await readConfig("node", self);
      const all = await effectiveSettings(resolved);
      const settings = key === undefined ? all : all.filter((one) => one.name === key);
      if (settings.length === 0) {
        throw new UsageError(`Cannot show "${key}": there is no such setting.`, {
          code: "bad-setting",
          remedy: `There are: ${all.map((one) => one.name).join(", ")}`,
        });
      }
      if (flags.json === true) {
        term.out(JSON.stringify({ schema: "higgs.node-settings/1", settings }));
        return;
      }
      for (const line of table(settings.map((one) => [one.name, valueText(one.value), one.from]))) term.out(line);
    });
}

/** The running node's own, whose flags and environment are not ours. */
async function effectiveSettings(resolved: Resolved<"node">): Promise<z.infer<typeof settingsShape>["settings"]> {
  try {
    const { run: runDir } = resolved.config;
    return settingsShape.parse(await ask({ role: "node", runDir }, "get")).settings;
  } catch (thrown) {
    if (thrown instanceof HiggsError && thrown.code === "not-running") return [...shownSettings(resolved)];
    throw thrown;
  }
}

function valueText(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? "none" : value.join(",");
  return value === true ? "yes" : value === false ? "no" : String(value);
}

function printStatus(term: Terminal, status: z.infer<typeof statusShape>): void {
  const { exit, tunnel } = status;
  const colour = status.state === "connected" ? "green" : "yellow";
  const offer = !exit.enabled ? "offers no exit" : exit.ready ? "offers its exit" : "exit not ready";
  term.out(`${term.paint(colour, status.state)}; "${status.name}" ${offer}; server ${status.server ?? "-"}`);
  const rows = [["tunnel", `${tunnel.interface} ${tunnel.ipv4} (WireGuard: ${tunnel.implementation})`]];
  if (exit.enabled) {
    const families = exit.ipv6 ? "IPv4 and IPv6" : "IPv4 only";
    rows.push(["exit", `${exit.publicAddress ?? "-"} by ${exit.interface ?? "-"}, ${families}`]);
    const said = exit.policy === undefined ? [] : policyLines(exit.policy);
    rows.push(...said.map((line, i) => [i === 0 ? "policy" : "", line]));
    if (exit.record !== undefined && exit.record !== null) rows.push(["", `the record is in ${exit.record}`]);
  }
  rows.push(["port", portMappingText(status.portMapping)]);
  for (const line of table(rows)) term.out(`  ${line}`);
  if (status.clients.length > 0) {
    term.out("");
    const header = ["CLIENT", "PATH", "RECEIVED", "SENT", "HANDSHAKE"];
    const lines = status.clients.map((client) => [
      client.name,
      client.path,
      bytesText(client.rxBytes),
      bytesText(client.txBytes),
      agoText(client.lastHandshake),
    ]);
    for (const line of table([header, ...lines])) term.out(`  ${line}`);
  }
  printHealth(term, status.health);
}
