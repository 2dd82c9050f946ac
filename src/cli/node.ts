// `higgs node …`: the exit at home.
import { Command } from "commander";
import { z } from "zod";
import { endRunning } from "./end-running.ts";
import { interruptSignal } from "./interrupt.ts";
import { ask } from "./local.ts";
import { logWriter } from "./log-text.ts";
import { joinCommand, joinIfAsked, leaveCommand, warnOfPassword } from "./machine-actions.ts";
import { addSettings, configOf, readConfig } from "./options.ts";
import { agoText, bytesText, table, type Terminal } from "./output.ts";
import { type Context, jsonOption } from "./context.ts";
import { printHealth } from "./status-text.ts";
import { EXIT } from "./exit-codes.ts";

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
      })
      .loose(),
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
  command.addCommand(leaveCommand("node", context));
  return command;
}

async function run(term: Terminal, self: Command): Promise<void> {
  const resolved = await readConfig("node", self);
  const { config } = resolved;
  warnOfPassword(resolved, term);
  await joinIfAsked("node", config, term);
  const { runNode } = await import("../roles/node.ts");
  await runNode(config, {
    write: logWriter(config.logFormat, term),
    onReady: (name) => term.out(`${term.paint("bold", "higgs node")} "${name}" is running.`),
  });
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

function printStatus(term: Terminal, status: z.infer<typeof statusShape>): void {
  const { exit, tunnel } = status;
  const colour = status.state === "connected" ? "green" : "yellow";
  const offer = !exit.enabled ? "offers no exit" : exit.ready ? "offers its exit" : "exit not ready";
  term.out(`${term.paint(colour, status.state)}; "${status.name}" ${offer}; server ${status.server ?? "-"}`);
  const rows = [["tunnel", `${tunnel.interface} ${tunnel.ipv4} (WireGuard: ${tunnel.implementation})`]];
  if (exit.enabled) {
    const families = exit.ipv6 ? "IPv4 and IPv6" : "IPv4 only";
    rows.push(["exit", `${exit.publicAddress ?? "-"} by ${exit.interface ?? "-"}, ${families}`]);
  }
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
