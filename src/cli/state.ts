// `higgs state list` and `verify`: what higgs changed on this machine, by the system itself and not by what anybody remembers.
import { Command } from "commander";
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import { usualDirs } from "../net/platform.ts";
import { type AnyRole, UsageError } from "../roles/config.ts";
import { leftBehind, listState } from "../roles/state.ts";
import { type Context, jsonOption } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { ask } from "./local.ts";
import type { Terminal } from "./output.ts";
import { type Place, placed } from "./place.ts";

const ROLES = ["server", "node", "client"] as const;

const changeShape = z.object({
  kind: z.string(),
  what: z.string(),
  lines: z.array(z.string()).readonly(),
  isJournaled: z.boolean(),
});
const listShape = z.object({ changes: z.array(changeShape) });
const verifyShape = z.object({ differences: z.array(z.string()) });
type Change = z.infer<typeof changeShape>;

interface RoleState {
  readonly role: AnyRole;
  readonly running: boolean;
  readonly changes: readonly Change[];
}

export function stateListCommand(term: Terminal): Command {
  return placed(new Command("list"), ROLES)
    .description("every interface, table, rule, route, setting and file that higgs added")
    .option("-v, --verbose", "the rules of each table too")
    .addOption(jsonOption())
    .action(async (flags: Place & { verbose?: boolean; json?: boolean }) => {
      const states = await Promise.all(rolesOf(flags).map((role) => stateOf(role, flags)));
      if (flags.json === true) {
        term.out(JSON.stringify({ schema: "higgs.state/1", roles: states }));
        return;
      }
      for (const { role, running, changes } of states) {
        if (changes.length === 0 && flags.role === undefined) continue;
        term.out(
          `${role}: ${running ? "is running" : "does not run"}${changes.length === 0 ? "; nothing is here." : ""}`,
        );
        for (const change of changes) {
          term.out(`  ${change.what}${remark(change)}`);
          if (change.kind !== "table" || flags.verbose === true)
            for (const line of change.lines) term.out(`      ${line}`);
        }
      }
      if (flags.role === undefined && states.every((state) => state.changes.length === 0)) {
        term.out("Nothing of higgs is on this machine.");
      }
    });
}

/** A file is nobody's to undo; the rest should be in the journal, and is found without it. */
function remark({ kind, isJournaled }: Change): string {
  return isJournaled || kind === "file" ? "" : " (found by its name; not in the journal)";
}

export function stateVerifyCommand({ term, setExitCode }: Context): Command {
  return placed(new Command("verify"), ROLES)
    .description("whether the machine is as higgs wants it: exit code 0, or 1 and what differs")
    .addOption(jsonOption())
    .action(async (flags: Place & { json?: boolean }) => {
      const found: { role: AnyRole; running: boolean; differences: readonly string[] }[] = [];
      for (const role of rolesOf(flags)) found.push(await differencesOf(role, flags));
      if (found.some(({ differences }) => differences.length > 0)) setExitCode(EXIT.failed);
      if (flags.json === true) {
        term.out(JSON.stringify({ schema: "higgs.state-verify/1", roles: found }));
        return;
      }
      for (const { role, running, differences } of found) {
        const well = running ? "is running, and everything is as it wants it." : "does not run, and left nothing.";
        term.out(`${role}: ${differences.length === 0 ? well : running ? "differs:" : "does not run, and left:"}`);
        for (const line of differences) term.out(`  ${line}`);
        if (!running && differences.length > 0) term.out(`  Put it back: sudo higgs state clean --role ${role}`);
      }
    });
}

function rolesOf(flags: Place): readonly AnyRole[] {
  if (flags.role === undefined) return ROLES;
  const role = ROLES.find((one) => one === flags.role);
  if (role !== undefined) return [role];
  throw new UsageError(`Cannot use the role "${flags.role}" here.`, {
    code: "usage",
    remedy: `--role ${ROLES.join(" | ")}`,
  });
}

function runDirOf(role: AnyRole, flags: Place): string {
  return flags.run ?? process.env.HIGGS_RUN ?? `${usualDirs().run}/${role}`;
}

function stateDirOf(role: AnyRole, flags: Place): string {
  return flags.state ?? process.env.HIGGS_STATE ?? `${usualDirs().state}/${role}`;
}

async function stateOf(role: AnyRole, flags: Place): Promise<RoleState> {
  const runDir = runDirOf(role, flags);
  const stateDir = stateDirOf(role, flags);
  try {
    const { changes } = listShape.parse(await ask({ role, runDir }, "state-list"));
    return { role, running: true, changes };
  } catch (thrown) {
    if (!(thrown instanceof HiggsError && thrown.code === "not-running")) throw thrown;
    return { role, running: false, changes: await listState(role, { stateDir, runDir }) };
  }
}

async function differencesOf(role: AnyRole, flags: Place) {
  const runDir = runDirOf(role, flags);
  try {
    const { differences } = verifyShape.parse(await ask({ role, runDir }, "verify"));
    return { role, running: true, differences };
  } catch (thrown) {
    if (!(thrown instanceof HiggsError && thrown.code === "not-running")) throw thrown;
    return { role, running: false, differences: await leftBehind(role, { stateDir: stateDirOf(role, flags), runDir }) };
  }
}
