// `install` and `uninstall` of a role: what the service needs beforehand, the service, and what is to be told.
import { existsSync } from "node:fs";
import { utf8Text } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { Family } from "../base/ip.ts";
import { findTool, systemExec, toolMissing } from "../net/exec.ts";
import { clientTrial } from "../net/firewall/iptables-client-chains.ts";
import { exitTrial } from "../net/firewall/iptables-exit-chains.ts";
import { serviceTrouble } from "../net/firewall/mechanism.ts";
import { IDENTIFIERS } from "../net/identifiers.ts";
import { readSecretFile } from "../net/secret-file.ts";
import { installService, requireExecutable, requireSystemd, uninstallService } from "../net/systemd/install.ts";
import { UNIT_DIR, unitName } from "../net/systemd/units.ts";
import { prepareCarried } from "../net/wg/prepare.ts";
import { readEnrolment } from "../peer/enrolment.ts";
import { openStateDir, type StateDir } from "../peer/state-dir.ts";
import { requireLinux } from "../net/os.ts";
import { type AnyRole, type Config, settingsOf, type Source } from "./config.ts";
import { requireUnlocked } from "./lockdown.ts";
import { openProxy } from "./proxy.ts";
import type { ProxySetting } from "./proxy-setting.ts";
import { cleanState } from "./state.ts";

/** Decided by the unit, and not by whoever installs it. */
const FIXED: readonly string[] = ["state", "run", "libexec", "logFormat", "join", "name", "proxy"];

const FIREWALL_MS = 10_000;

export class InstallRefused extends HiggsError {
  override readonly name = "InstallRefused";
}

export interface InstallOptions {
  readonly config: Config<AnyRole>;
  readonly sources: Readonly<Record<string, Source>>;
  readonly executablePath: string;
}

/** Before anything is changed, an invite used up included. Throws ServiceRefused, InstallRefused, PlatformUnsupported, ToolMissing. */
export async function requireReady(role: AnyRole, options: InstallOptions): Promise<string> {
  requireLinux(`install a ${role} as a service`);
  requireSystemd(`higgs ${role} install`);
  const path = await requireExecutable(role, options.executablePath);
  for (const key of ["state", "run", "libexec", "logFormat"]) {
    if ((options.sources[key] ?? "default") === "default") continue;
    throw new InstallRefused(`Cannot install a ${role} with another ${key} setting: the service has its own.`, {
      code: "bad-setting",
      remedy: `higgs ${role} install without it, and without HIGGS_${key.toUpperCase()}`,
    });
  }
  for (const tool of role === "server" ? [] : ["ip", "wg"]) if (findTool(tool) === null) throw toolMissing(tool);
  const trouble = await firewallTrouble(role, options.config);
  if (trouble !== null) throw trouble;
  return path;
}

/** Nobody's concern where a person wants none: a client without its firewall, a node without an exit, a server. */
async function firewallTrouble(role: AnyRole, config: Config<AnyRole>): Promise<HiggsError | null> {
  const signal = AbortSignal.timeout(FIREWALL_MS);
  if (role === "client" && (config as Config<"client">).firewall) {
    const identifiers = IDENTIFIERS.client;
    const trial = (family: Family) => clientTrial(family, identifiers);
    return await serviceTrouble(systemExec(), { identifiers, trial, byHand: "sudo higgs client up" }, signal);
  }
  if (role === "node" && (config as Config<"node">).exit) {
    const identifiers = IDENTIFIERS.node;
    const wanted = { identifiers, trial: exitTrial(identifiers), byHand: "sudo higgs node" };
    return await serviceTrouble(systemExec(), wanted, signal);
  }
  return null;
}

/** Resolves with sentences for the person. The service runs by then. */
export async function installRole(
  role: AnyRole,
  options: InstallOptions,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const executablePath = await requireReady(role, options);
  const { state, run } = options.config;
  const said: string[] = [];
  if (role !== "server") {
    const dir = await openStateDir(state);
    await readEnrolment(dir, role); // throws with what to type
    await rememberProxy(dir, (options.config as Config<"node" | "client">).proxy);
    said.push(...(await prepareCarried()));
  }
  // What somebody started by hand would be in the service's way.
  if (!existsSync(`${UNIT_DIR}/${unitName(role)}`)) {
    for (const line of await cleanState(role, { stateDir: state, runDir: run })) said.push(line);
  }
  const command = { executablePath, flags: flagsOf(role, options) };
  said.push(...(await installService(role, command, { exec: systemExec(), signal })));
  return said;
}

/** Resolves with sentences for the person. What the role changed on the machine is put back, also what a crash left. */
export async function uninstallRole(
  role: AnyRole,
  options: { readonly config: Pick<Config<AnyRole>, "state" | "run"> },
  signal: AbortSignal,
): Promise<readonly string[]> {
  requireLinux(`uninstall the service of a ${role}`);
  requireSystemd(`higgs ${role} uninstall`);
  const { state, run } = options.config;
  if (role === "client") await requireUnlocked("uninstall the client", state);
  const clean = () => cleanState(role, { stateDir: state, runDir: run });
  const said = await uninstallService(role, clean, { exec: systemExec(), signal });
  return said.length === 0 ? [`There is no service of a ${role} here.`] : said;
}

/** A service has neither this environment nor this user's files, and a unit is no place for a password. */
async function rememberProxy(dir: StateDir, setting: ProxySetting | null): Promise<void> {
  if (setting === null) return;
  const path = setting.text.startsWith("file:") ? setting.text.slice("file:".length) : null;
  const bytes = path === null ? null : await readSecretFile(path);
  const text = bytes === null ? setting.text : utf8Text(bytes).trim();
  await openProxy(dir, { ...setting, text, isNamed: true });
}

/** What was given as a flag or in the environment; what is in the file is read by the service itself. */
export function flagsOf(role: AnyRole, options: Pick<InstallOptions, "config" | "sources">): string[] {
  const values: Readonly<Record<string, unknown>> = options.config;
  return Object.entries(settingsOf(role)).flatMap(([key, setting]) => {
    const source = options.sources[key];
    const flag = setting.flags.split(" ")[0] ?? "";
    if (FIXED.includes(key) || (source !== "flag" && source !== "environment")) return [];
    const words = flagWords(flag, values[key]);
    return words.length > 2 && !setting.flags.includes("...") ? [flag, words.slice(1).join(",")] : words;
  });
}

function flagWords(flag: string, value: unknown): string[] {
  if (flag.startsWith("--no-")) return value === false ? [flag] : [];
  if (Array.isArray(value)) return value.length === 0 ? [] : [flag, ...value.map(String)];
  if (typeof value === "object" && value !== null && "first" in value && "last" in value) {
    return [flag, `${String(value.first)}-${String(value.last)}`];
  }
  return typeof value === "string" || typeof value === "number" ? [flag, String(value)] : [];
}
