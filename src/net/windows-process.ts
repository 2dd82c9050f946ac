// Processes of a Windows machine: who one is, so that a number used again is not mistaken, and which of them are higgs'.
import { z } from "zod";
import { type Exec, findTool, systemExec } from "./exec.ts";
import { askScript, scriptArgv } from "./powershell.ts";
import type { ProcessIdentity } from "./process-identity.ts";

const said = z.object({ started: z.string().regex(/^\d{0,20}$/), booted: z.string().regex(/^\d{1,20}$/) });
const TIMEOUT_MS = 30_000;
let own: ProcessIdentity | null = null;

/** Null when there is no such process. Blocks for the second that PowerShell takes, and asks once for this process. */
export function windowsProcess(pid: number): ProcessIdentity | null {
  if (pid === process.pid && own !== null) return own;
  const [tool, ...args] = scriptArgv("read-process", { pid });
  const path = findTool(tool);
  if (path === null) return null;
  const { stdout } = Bun.spawnSync([path, ...args], { stdin: "ignore", stderr: "ignore", timeout: TIMEOUT_MS });
  const identity = identityFrom(stdout.toString(), pid);
  if (pid === process.pid) own = identity;
  return identity;
}

/** From the JSON of the script; null for a process that is over, and for anything else. */
export function identityFrom(text: string, pid: number): ProcessIdentity | null {
  let parsed: z.infer<typeof said>;
  try {
    parsed = said.parse(JSON.parse(text));
  } catch {
    return null; // no PowerShell, or no answer
  }
  if (parsed.started === "") return null;
  const hex = BigInt(parsed.booted).toString(16).padStart(32, "0");
  const bootId = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  return { pid, startTime: parsed.started, bootId };
}

const listed = z.object({ processes: z.array(z.object({ pid: z.int().min(1), line: z.string() })) });

/** Every higgs.exe but this process, with its arguments. */
export async function windowsProcesses(
  exec: Exec = systemExec(),
): Promise<readonly { readonly pid: number; readonly argv: readonly string[] }[]> {
  const { processes } = await askScript(exec, "list-processes", { schema: listed });
  return processes.filter(({ pid }) => pid !== process.pid).map(({ pid, line }) => ({ pid, argv: argvOf(line) }));
}

/** Good enough to tell a role and its folders: words, and quoted words (learn.microsoft.com, "Parsing C command-line arguments"). */
export function argvOf(line: string): readonly string[] {
  return [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? "");
}
