// Running PowerShell: fixed scripts alone, with their parameters as data that no character of can become a command.
//
// The one argument is Base64 of the script in UTF-16LE (about_PowerShell_exe, -EncodedCommand). In it the parameters are Base64 of
// JSON in UTF-8, whose alphabet has no quote, and are parsed there: names of interfaces and paths reach the script as strings only.
import type { z } from "zod";
import { toBase64, utf8 } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { type Exec, ToolFailed } from "./exec.ts";
import { WINDOWS_SCRIPTS, type WindowsScript } from "./windows-scripts.ts";

/** What PowerShell said is not as its documentation has it. */
export class PowerShellUnreadable extends HiggsError {
  override readonly name = "PowerShellUnreadable";
}

export type ScriptParameters = Readonly<Record<string, unknown>>;

/** PowerShell alone takes most of a second to start, and the firewall's module as long again. */
const TIMEOUT_MS = 60_000;
/** CreateProcessW takes 32 767 characters in all. */
const LIMIT_CHARS = 32_000;

/** Throws ToolFailed with what the script's first failing command said, and before anything ran for parameters that are too long. */
export async function runScript(
  exec: Exec,
  script: WindowsScript,
  options: { readonly parameters?: ScriptParameters; readonly signal?: AbortSignal; readonly timeoutMs?: number } = {},
): Promise<string> {
  const argv = scriptArgv(script, options.parameters ?? {});
  const { signal, timeoutMs = TIMEOUT_MS } = options;
  const result = await exec.run(argv, { timeoutMs, ...(signal === undefined ? {} : { signal }) });
  if (result.code === 0) return result.stdout;
  throw new ToolFailed(
    `Cannot do "${script}" in PowerShell: ${firstLine(result.stderr) || `exit code ${result.code}`}.`,
    {
      code: "tool-failed",
      detail: { script, code: result.code, stderr: result.stderr },
    },
  );
}

/** The script's JSON. Throws as `runScript`, and PowerShellUnreadable. */
export async function askScript<T>(
  exec: Exec,
  script: WindowsScript,
  options: { readonly schema: z.ZodType<T>; readonly parameters?: ScriptParameters; readonly signal?: AbortSignal },
): Promise<T> {
  const said = await runScript(exec, script, options);
  try {
    return options.schema.parse(JSON.parse(said));
  } catch (cause) {
    throw new PowerShellUnreadable(`Cannot understand what PowerShell says to "${script}": it is not as expected.`, {
      code: "powershell-unreadable",
      cause,
    });
  }
}

/** True when what should be done fits one command line. */
export function fitsScript(script: WindowsScript, parameters: ScriptParameters): boolean {
  return encodedScript(script, parameters).length <= LIMIT_CHARS;
}

/** Throws ToolFailed for parameters that do not fit a command line. */
export function scriptArgv(script: WindowsScript, parameters: ScriptParameters): readonly [string, ...string[]] {
  const encoded = encodedScript(script, parameters);
  if (encoded.length > LIMIT_CHARS) {
    throw new ToolFailed(`Cannot do "${script}" in PowerShell: what it should do is too long for one command line.`, {
      code: "tool-failed",
      detail: { script, length: encoded.length },
    });
  }
  // about_PowerShell_exe: -NoProfile, -NonInteractive, -OutputFormat Text (or errors come as XML), -EncodedCommand.
  const flags = ["-NoLogo", "-NoProfile", "-NonInteractive", "-OutputFormat", "Text"] as const;
  return ["powershell", ...flags, "-EncodedCommand", encoded];
}

function encodedScript(script: WindowsScript, parameters: ScriptParameters): string {
  const data = toBase64(utf8(JSON.stringify(parameters)));
  const text = `${PRELUDE.replace("DATA", data)}\n${WINDOWS_SCRIPTS[script]}\n${ENDING}`;
  return toBase64(new Uint8Array(Buffer.from(text, "utf16le")));
}

// about_Preference_Variables: the first failure ends the script, and no progress bar is written. Console.OutputEncoding: .NET.
const PRELUDE = `$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Console]::OutputEncoding = New-Object System.Text.UTF8Encoding($false)
$p = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('DATA')) | ConvertFrom-Json
try {`;
const ENDING = `} catch { [Console]::Error.WriteLine($_.Exception.Message); exit 1 }`;

function firstLine(text: string): string {
  return text.trim().split("\n")[0]?.trim().replace(/\.$/, "") ?? "";
}
