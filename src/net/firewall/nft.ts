// Talks to nft: loads rulesets, reads tables back as JSON, and takes a role's table away.
import { output, ToolFailed, type Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";

/** Loads a ruleset in one transaction: all of it, or nothing. Throws ToolFailed. */
export async function loadRuleset(exec: Exec, ruleset: string, signal: AbortSignal): Promise<void> {
  await output(exec, ["nft", "-f", "-"], { stdin: ruleset, signal });
}

/** Takes the role's table away, from whatever state, without memory. True when there was one. */
export async function removeTable(exec: Exec, identifiers: Identifiers, signal: AbortSignal): Promise<boolean> {
  const result = await exec.run(["nft", "delete", "table", "inet", identifiers.table], { signal });
  if (result.code === 0) return true;
  if (/No such file or directory/.test(result.stderr)) return false;
  throw new ToolFailed(`Cannot delete the nft table "${identifiers.table}": ${result.stderr.trim()}.`, {
    code: "tool-failed",
    detail: { code: result.code, stderr: result.stderr },
  });
}
