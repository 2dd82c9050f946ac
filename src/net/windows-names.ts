// What bears higgs' name on Windows, and where its tools are: fixed folders that only administrators may write to.
import type { Role } from "../proto/role.ts";

/** Of Windows Firewall's rules: the group by which all of a role's are found again. */
export function firewallGroup(role: Role): string {
  return `higgs-${role}`;
}

/** A drive and plain names: the environment of an elevated process may be the person's own. */
const PLAIN_PATH = /^[A-Za-z]:\\(?:[\w .()-]+\\?)*$/;

/** Never PATH, in which a lesser user may have put something before Windows' own. */
export function windowsToolDirs(env: Readonly<Record<string, string | undefined>>): readonly string[] {
  const systemRoot = plain(env["SystemRoot"], "C:\\Windows");
  const programFiles = plain(env["ProgramFiles"], "C:\\Program Files");
  return [`${systemRoot}\\System32`, `${systemRoot}\\System32\\WindowsPowerShell\\v1.0`, `${programFiles}\\WireGuard`];
}

/** What PowerShell and netsh need to start at all. */
export function windowsToolEnvironment(
  env: Readonly<Record<string, string | undefined>>,
): Readonly<Record<string, string>> {
  const systemRoot = plain(env["SystemRoot"], "C:\\Windows");
  return { SystemRoot: systemRoot, windir: systemRoot, PATH: windowsToolDirs(env).join(";"), PATHEXT: ".EXE" };
}

function plain(path: string | undefined, otherwise: string): string {
  return path !== undefined && PLAIN_PATH.test(path) ? path.replace(/\\+$/, "") : otherwise;
}
