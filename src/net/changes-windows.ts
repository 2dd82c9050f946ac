// What a role changed on Windows, found in the real system by its fixed names and in its journal.
import type { Role } from "../proto/role.ts";
import { type Change, stateFiles } from "./changes.ts";
import { readDns } from "./dns/windows.ts";
import type { Exec } from "./exec.ts";
import { closingName, profileName, readWindowsFirewall } from "./firewall/windows-client.ts";
import { IDENTIFIERS } from "./identifiers.ts";
import type { Journal, UndoEntry } from "./journal.ts";
import { listedRoutes, routeArgv } from "./routes/windows.ts";
import { serviceName, tunnelServiceState } from "./wg/windows.ts";
import { firewallGroup } from "./windows-names.ts";
import { readWindowsNetwork } from "./windows-network.ts";

export interface WindowsChangesDeps {
  readonly exec: Exec;
  readonly journal: Pick<Journal, "entries">;
  readonly stateDir: string;
  readonly signal: AbortSignal;
}

/** Throws ToolFailed where the tools do not answer, as for a process that is not elevated. */
export async function listWindowsChanges(role: Role, deps: WindowsChangesDeps): Promise<readonly Change[]> {
  const { exec, journal, stateDir, signal } = deps;
  const { interface: name, routeTable } = IDENTIFIERS[role];
  const has = (kind: UndoEntry["kind"]): boolean => journal.entries().some((entry) => entry.kind === kind);
  const found: Change[] = [];
  const service = await tunnelServiceState(exec, name, signal);
  if (service !== "Absent") {
    found.push({
      kind: "device",
      what: `service ${serviceName(name)}`,
      lines: [service],
      isJournaled: has("windows-tunnel"),
    });
  }
  const network = await readWindowsNetwork(exec, signal);
  for (const route of listedRoutes(network, { interface: name, ownMetric: routeTable ?? Number.NaN })) {
    const what = routeArgv("add", route).join(" ");
    found.push({ kind: "route", what, lines: [], isJournaled: has("windows-routes") });
  }
  const { rules } = await readWindowsFirewall(exec, firewallGroup(role), signal);
  if (rules.length > 0) {
    const lines = rules.map((rule) => `${rule.name} ${rule.direction} ${rule.action}`);
    found.push({
      kind: "table",
      what: closingName(firewallGroup(role)),
      lines,
      isJournaled: has("windows-firewall"),
    });
  }
  for (const entry of journal.entries()) {
    if (entry.kind !== "windows-profile") continue;
    const lines = [`before: enabled ${entry.before.enabled}, outbound ${entry.before.outbound}`];
    found.push({ kind: "setting", what: profileName(entry.profile), lines, isJournaled: true });
  }
  if (role === "client") {
    for (const rule of (await readDns(exec, name, signal)).rules) {
      const lines = [rule.namespaces.join(" "), ...rule.servers];
      found.push({ kind: "dns", what: `NRPT rule ${rule.name}`, lines, isJournaled: has("windows-dns") });
    }
  }
  return [...found, ...(await stateFiles({ stateDir }))];
}
