// The settings of a node that may change while it runs: read with where they came from, chosen, and made into the rules of its exit.
import type { Cidr } from "../base/ip.ts";
import { type ExitRules, parseLan, parseLogDays, parsePorts, parsePrefix } from "../node/exit-rules.ts";
import { changeSettings, readSettings } from "../peer/settings.ts";
import type { StateDir } from "../peer/state-dir.ts";
import { type Config, type Resolved, settingName, settingsOf, UsageError } from "./config.ts";

/** By name; null puts the default back. */
export type Choices = Readonly<Record<string, string | null>>;

export interface ShownSetting {
  readonly name: string;
  readonly value: unknown;
  readonly from: string;
}

/** From the settings, which were checked when they were parsed. */
export function exitRulesOf(config: Config<"node">): ExitRules {
  const ports = config.exitPorts.flatMap((text) => parsePorts(text) ?? []);
  const lan = config.exitLan.map(parseLan).filter((one) => typeof one !== "string");
  return {
    ports: config.exitPorts.length === 0 ? null : ports,
    closed: config.exitDeny.map(parsePrefix).filter((prefix): prefix is Cidr => prefix !== null),
    lan,
    mail: config.exitMail,
    logDays: parseLogDays(config.exitLog) ?? 0,
  };
}

export function shownSettings(resolved: Resolved<"node">): readonly ShownSetting[] {
  const values = resolved.config as Readonly<Record<string, unknown>>;
  return liveSettings().map(([key, setting]) => ({
    name: settingName(setting.flags),
    value: values[key],
    from: resolved.sources[key] ?? "default",
  }));
}

function liveSettings() {
  return Object.entries(settingsOf("node")).filter(([, setting]) => setting.live === true);
}

/** Checks all of them, then keeps all of them. Throws UsageError `bad-setting` or `setting-pinned`. */
export async function chooseSettings(dir: StateDir, resolved: Resolved<"node">, choices: Choices): Promise<void> {
  checkChoices(resolved, choices);
  const { chosen } = await readSettings(dir);
  const next = new Map(Object.entries(chosen));
  for (const [name, value] of Object.entries(choices)) {
    if (value === null) next.delete(name);
    else next.set(name, value);
  }
  await changeSettings(dir, { chosen: Object.fromEntries(next) });
}

/** Throws as `chooseSettings`, and keeps nothing. */
export function checkChoices(resolved: Resolved<"node">, choices: Choices): void {
  for (const [name, value] of Object.entries(choices)) checkChoice(name, value, resolved);
}

function checkChoice(name: string, value: string | null, resolved: Resolved<"node">): void {
  const found = liveSettings().find(([, setting]) => settingName(setting.flags) === name);
  if (found === undefined) {
    const names = liveSettings().map(([, setting]) => settingName(setting.flags));
    throw new UsageError(`Cannot set "${name}": no setting of that name can be changed while the node runs.`, {
      code: "bad-setting",
      remedy: `There are: ${names.join(", ")}`,
    });
  }
  const [key, setting] = found;
  const source = resolved.sources[key] ?? "default";
  if (source !== "chosen" && source !== "default") {
    throw new UsageError(`Cannot set "${name}": it is given by the node's ${source}.`, {
      code: "bad-setting",
      remedy: source === "flag" ? `Start the node without --${name}.` : "Take it away there, and start the node again.",
    });
  }
  const parsed = value === null ? null : setting.schema.safeParse(value);
  if (parsed === null || parsed.success) return;
  throw new UsageError(`Cannot use "${value}" for ${name}: ${parsed.error.issues[0]?.message ?? "it is wrong"}.`, {
    code: "bad-setting",
    remedy: `${setting.flags}: ${setting.about}`,
  });
}
