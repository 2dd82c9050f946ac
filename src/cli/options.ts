// Options of a role's commands, made from the role's settings, so that flags and environment never differ.
import { type Command, Option } from "commander";
import {
  type AnyRole,
  type Config,
  environmentName,
  type Resolved,
  resolveConfig,
  settingsOf,
} from "../roles/config.ts";

/** Adds a flag for each of the named settings (all without names). Values are checked by `readConfig`. */
export function addSettings(command: Command, role: AnyRole, names?: readonly string[]): Command {
  for (const [key, setting] of Object.entries(settingsOf(role))) {
    if (names !== undefined && !names.includes(key)) continue;
    const fallback =
      setting.default === null || setting.default === true ? "" : ` (default ${JSON.stringify(setting.default)})`;
    command.addOption(new Option(setting.flags, `${setting.about}${fallback} [${environmentName(setting.flags)}]`));
  }
  return command;
}

/** The effective settings of a command; commander's own default of a `--no-` flag is not a flag that was given. */
export async function readConfig<R extends AnyRole>(role: R, command: Command): Promise<Resolved<R>> {
  const flags: Record<string, unknown> = {};
  for (let at: Command | null = command; at !== null; at = at.parent) {
    for (const [key, value] of Object.entries(at.opts<Record<string, unknown>>())) {
      if (at.getOptionValueSource(key) !== "cli" || Object.hasOwn(flags, key)) continue;
      flags[key] = value;
    }
  }
  return await resolveConfig(role, flags, process.env);
}

export async function configOf<R extends AnyRole>(role: R, command: Command): Promise<Config<R>> {
  return (await readConfig(role, command)).config;
}
