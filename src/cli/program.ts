// The command tree.
import { Command } from "commander";
import { PLATFORM, VERSION } from "../roles/version.ts";
import { clientCommand } from "./client.ts";
import { type Context, jsonOption } from "./context.ts";
import { configCommand, logsCommand, stateCommand, trustCommand } from "./machine.ts";
import { netcheckCommand, pingCommand, whyCommand } from "./path.ts";
import { doctorCommand } from "./doctor.ts";
import { panicCommand } from "./panic.ts";
import { demoCommand, labServiceCommand } from "./demo.ts";
import { nodeCommand } from "./node.ts";
import type { Terminal } from "./output.ts";
import { resolvConfHelperCommand } from "./resolv-conf-helper.ts";
import { serverCommand } from "./server.ts";

export function program(term: Terminal, setExitCode: Context["setExitCode"]): Command {
  const context: Context = { term, setExitCode };
  const root = new Command("higgs")
    .description("Your home PC as your own VPN exit.")
    .version(VERSION, "-V, --version")
    .configureOutput({
      outputError: (text) => term.err(text.replace(/^error: /, `${term.paint("red", "error:")} `).trimEnd()),
    })
    .showHelpAfterError("  → higgs --help shows the commands")
    .exitOverride();
  for (const command of [
    serverCommand(context),
    nodeCommand(context),
    clientCommand(context),
    pingCommand(context),
    whyCommand(context),
    netcheckCommand(context),
    trustCommand(context),
    stateCommand(context),
    panicCommand(context),
    logsCommand(context),
    configCommand(context),
    doctorCommand(context),
    demoCommand(context),
    versionCommand(context),
  ]) {
    root.addCommand(command);
  }
  root.addCommand(labServiceCommand(), { hidden: true });
  root.addCommand(resolvConfHelperCommand(), { hidden: true });
  inherit(root);
  return root;
}

/** Every command throws instead of ending the process, and says errors in the same way. */
function inherit(command: Command): void {
  for (const child of command.commands) {
    child.copyInheritedSettings(command);
    inherit(child);
  }
}

function versionCommand({ term }: Context): Command {
  return new Command("version")
    .description("the version of this program")
    .addOption(jsonOption())
    .action((options: { json?: boolean }) => {
      const version = { schema: "higgs.version/1", version: VERSION, platform: PLATFORM, bun: Bun.version };
      term.out(options.json === true ? JSON.stringify(version) : `higgs ${VERSION} ${PLATFORM}`);
    });
}
