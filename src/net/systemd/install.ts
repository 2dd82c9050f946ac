// Installs and removes a role's systemd service: user, units, rules, and what the service itself may not do.
import { existsSync } from "node:fs";
import { chmod, lchown, mkdir, readdir, realpath, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Exec } from "../exec.ts";
import { HELPER_STATE_DIR } from "../dns/resolv-conf-helper.ts";
import { groupIdIn } from "../run-dir.ts";
import { rootOnlyProblem } from "../root-only.ts";
import {
  HELPER_BOOT_UNIT,
  HELPER_SERVICE_UNIT,
  HELPER_SOCKET_UNIT,
  helperBootUnit,
  helperServiceUnit,
  helperSocketUnit,
  LOCK_UNIT,
  lockUnit,
  POLKIT_RULES_PATH,
  polkitRules,
  roleUnit,
  type ServiceCommand,
  ServiceRefused,
  type ServiceRole,
  SERVICE_USER,
  UNIT_DIR,
  unitName,
} from "./units.ts";

const STATE_PARENT = "/var/lib/higgs";
const RUN_PARENT = "/run/higgs";
const ROLES: readonly ServiceRole[] = ["server", "node", "client"];
/** By which a user is known as one that was made here. */
const USER_COMMENT = "higgs service";
const START_MS = 90_000;

/** Throws ServiceRefused where there is no systemd, or this is not root. `command` is what the person typed. */
export function requireSystemd(command: string): void {
  if (process.getuid?.() !== 0) throw refused("this user is not root", `sudo ${command}`, "privilege-missing");
  if (existsSync("/run/systemd/system")) return;
  throw refused(
    "this machine was not started by systemd",
    "Without it, a role runs in the foreground: see higgs --help",
  );
}

/** Where the executable really is. Throws ServiceRefused when others than root could change it, or a service would not see it. */
export async function requireExecutable(role: ServiceRole, executablePath: string): Promise<string> {
  const path = await realpath(executablePath);
  const problem = await rootOnlyProblem(path, "file");
  const hidden = ["/home/", "/root/", "/tmp/", "/var/tmp/"].find((dir) => path.startsWith(dir));
  if (problem === null && hidden === undefined) return path;
  const why = hidden === undefined ? `"${problem?.path}": ${problem?.why}` : `a service does not see ${hidden}`;
  throw refused(
    `the executable is ${path}, and ${why}`,
    `sudo install -m 755 ${path} /usr/local/bin/higgs && sudo /usr/local/bin/higgs ${role} install`,
  );
}

/** Harmless twice: a service that runs starts anew with the new settings. Resolves when it says that it is up. */
export async function installService(
  role: ServiceRole,
  command: ServiceCommand,
  deps: { readonly exec: Exec; readonly signal: AbortSignal },
): Promise<readonly string[]> {
  const { exec, signal } = deps;
  const said: string[] = [];
  const run = async (...argv: [string, ...string[]]): Promise<void> => {
    const { code, stderr } = await exec.run(argv, { signal, timeoutMs: START_MS });
    if (code !== 0) throw refused(`"${argv.slice(0, 3).join(" ")}" failed: ${stderr.trim() || `exit code ${code}`}`);
  };
  const entry = `u ${SERVICE_USER} - "${USER_COMMENT}" ${STATE_PARENT}`;
  await run("systemd-sysusers", "--inline", entry);
  for (const dir of [STATE_PARENT, RUN_PARENT]) {
    await mkdir(dir, { recursive: true });
    await chmod(dir, 0o755); // each role's folder in it is private, and this one is root's
  }
  for (const [name, text] of unitsOf(role, command)) {
    await writeUnit(join(UNIT_DIR, name), text);
    said.push(`Wrote ${join(UNIT_DIR, name)}.`);
  }
  if (role === "client" && existsSync(dirname(dirname(POLKIT_RULES_PATH)))) {
    await mkdir(dirname(POLKIT_RULES_PATH), { recursive: true, mode: 0o755 });
    await writeUnit(POLKIT_RULES_PATH, polkitRules());
    said.push(`Wrote ${POLKIT_RULES_PATH}: the service may set names in systemd-resolved.`);
  }
  await run("systemctl", "daemon-reload");
  if (role === "client") {
    await run("systemctl", "enable", "--now", HELPER_SOCKET_UNIT);
    await run("systemctl", "enable", HELPER_BOOT_UNIT);
    await run("systemctl", "enable", LOCK_UNIT); // at the boot; now the client itself keeps the machine closed
  }
  await run("systemctl", "enable", unitName(role));
  const started = await exec.run(["systemctl", "restart", unitName(role)], { signal, timeoutMs: START_MS });
  if (started.code !== 0) {
    throw new ServiceRefused(`Cannot start ${unitName(role)}: ${await lastWords(role, exec, signal)}`, {
      code: "service-failed",
      remedy: `journalctl -u ${unitName(role)}`,
    });
  }
  said.push(`The ${role} runs as the user ${SERVICE_USER}, and at every boot.`);
  return said;
}

/**
 * Stops the service, which undoes what it changed, and takes away what `installService` made. The role's keys stay.
 * `clean` runs in between, for what a service that had crashed left.
 */
export async function uninstallService(
  role: ServiceRole,
  clean: () => Promise<readonly string[]>,
  deps: { readonly exec: Exec; readonly signal: AbortSignal },
): Promise<readonly string[]> {
  const { exec, signal } = deps;
  const run = (...argv: [string, ...string[]]) => exec.run(argv, { signal, timeoutMs: START_MS });
  const units =
    role === "client"
      ? [unitName(role), HELPER_SOCKET_UNIT, HELPER_SERVICE_UNIT, HELPER_BOOT_UNIT, LOCK_UNIT]
      : [unitName(role)];
  const found = units.filter((name) => existsSync(join(UNIT_DIR, name)));
  if (found.includes(unitName(role))) await run("systemctl", "disable", "--now", unitName(role));
  const said = [...(await clean())];
  for (const unit of [HELPER_SOCKET_UNIT, HELPER_BOOT_UNIT, LOCK_UNIT]) {
    if (found.includes(unit)) await run("systemctl", "disable", "--now", unit);
  }
  if (role === "client") {
    await rm(POLKIT_RULES_PATH, { force: true });
    await rm(HELPER_STATE_DIR, { recursive: true, force: true });
  }
  for (const name of units) await rm(join(UNIT_DIR, name), { force: true });
  await ownByRoot(join(STATE_PARENT, role));
  if (found.length === 0) return said;
  await run("systemctl", "daemon-reload");
  await run("systemctl", "reset-failed", unitName(role));
  await rm(join(RUN_PARENT, role), { recursive: true, force: true });
  said.push(`Stopped the ${role} and removed ${found.join(", ")}.`);
  if (ROLES.some((one) => existsSync(join(UNIT_DIR, unitName(one))))) return said;
  if (await removeUser(run)) said.push(`Removed the user ${SERVICE_USER}.`);
  return said;
}

export function unitsOf(role: ServiceRole, command: ServiceCommand): readonly (readonly [string, string])[] {
  const own = [unitName(role), roleUnit(role, command)] as const;
  if (role !== "client") return [own];
  return [
    own,
    [HELPER_SOCKET_UNIT, helperSocketUnit()],
    [HELPER_SERVICE_UNIT, helperServiceUnit(command.executablePath)],
    [HELPER_BOOT_UNIT, helperBootUnit(command.executablePath)],
    [LOCK_UNIT, lockUnit(command.executablePath)],
  ];
}

async function writeUnit(path: string, text: string): Promise<void> {
  await rm(path, { force: true }); // a link of that name is replaced, not followed
  await writeFile(path, text, { mode: 0o644, flag: "wx" });
  await chmod(path, 0o644); // whatever the umask
}

/** Its error and remedy, as any command says them. */
async function lastWords(role: ServiceRole, exec: Exec, signal: AbortSignal): Promise<string> {
  const argv = ["journalctl", "--no-pager", "-o", "cat", "-n", "40", "-u", unitName(role)] as const;
  const { stdout } = await exec.run(argv, { signal });
  const lines = stdout.split("\n").map((line) => line.trim());
  return lines.findLast((line) => line.startsWith("error: "))?.slice("error: ".length) ?? "it did not come up.";
}

/** Keys stay with whoever has the machine. */
async function ownByRoot(dir: string): Promise<void> {
  if (!existsSync(dir)) return;
  await lchown(dir, 0, 0);
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await ownByRoot(path);
    else await lchown(path, 0, 0);
  }
}

/** Only one that was made here, and none that somebody put into the group's members. */
async function removeUser(run: (...argv: [string, ...string[]]) => Promise<{ code: number }>): Promise<boolean> {
  const passwd = await Bun.file("/etc/passwd").text();
  const line = passwd.split("\n").find((one) => one.startsWith(`${SERVICE_USER}:`));
  if (line?.split(":")[4] !== USER_COMMENT) return false;
  await run("userdel", SERVICE_USER);
  if (groupIdIn(await Bun.file("/etc/group").text(), SERVICE_USER) !== null) await run("groupdel", SERVICE_USER);
  return !(await Bun.file("/etc/passwd").text()).includes(`\n${SERVICE_USER}:`);
}

function refused(why: string, remedy?: string, code = "service-refused"): ServiceRefused {
  return new ServiceRefused(`Cannot manage the service: ${why}.`, {
    code,
    ...(remedy === undefined ? {} : { remedy }),
  });
}
