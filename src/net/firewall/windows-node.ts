// A node on Windows: peers are kept from this machine's own services, and there is no exit, which Windows Firewall could not isolate.
import { SerialQueue } from "../../base/async.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Journal } from "../journal.ts";
import { runScript } from "../powershell.ts";
import { noExitOnWindows } from "../required-role.ts";
import { readWindowsNetwork } from "../windows-network.ts";
import { FirewallNotLoaded } from "./errors.ts";
import type { ExitFirewall, ExitPolicy } from "./exit.ts";
import { readWindowsFirewall, removeGroup } from "./windows-client.ts";
import type { WindowsRule } from "./windows-rules.ts";

export interface WindowsNodeDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
  readonly group: string;
}

/** Refusals for what comes to the tunnel's addresses, which win over whatever allows it; answers to what this machine asked pass. */
export function windowsNodeRules({ addresses }: Pick<ExitPolicy, "addresses">, group: string): readonly WindowsRule[] {
  const LocalAddress = [...addresses].sort();
  return (["TCP", "UDP"] as const).map((Protocol) => ({
    Name: `${group}-${Protocol.toLowerCase()}`,
    DisplayName: `higgs: no peer reaches this machine's own ${Protocol} services`,
    Direction: "Inbound",
    Action: "Block",
    Protocol,
    LocalAddress,
  }));
}

export function windowsNodeFirewall(deps: WindowsNodeDeps): ExitFirewall {
  const { exec, journal, log, group } = deps;
  const queue = new SerialQueue();
  const nothing = (): Promise<void> => Promise.resolve();
  let wanted: readonly WindowsRule[] = [];

  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        const rules = windowsNodeRules(policy, group);
        log.info({ group, addresses: policy.addresses }, "closing this machine's own services to peers");
        await journal.add({ kind: "windows-firewall" });
        // The names stay when addresses change, so that the old rules go first; what is not allowed is refused by default meanwhile.
        await removeGroup(exec, group, signal);
        await runScript(exec, "add-firewall-rules", { parameters: { group, rules }, signal });
        wanted = rules;
      }),
    verify: (signal) =>
      queue.run(async () => {
        const { rules, profiles } = await readWindowsFirewall(exec, group, signal);
        const isThere = ({ Name }: WindowsRule): boolean =>
          rules.some(({ name, enabled, action }) => name === Name && enabled === "True" && action === "Block");
        const network = await readWindowsNetwork(exec, signal);
        return [
          ...wanted.filter((rule) => !isThere(rule)).map(({ DisplayName }) => `The rule "${DisplayName}" is missing.`),
          ...profiles
            .filter(({ enabled }) => enabled !== "True")
            .map(({ name }) => `Windows Firewall is off in the profile ${name}.`),
          ...[
            ...new Set(
              network.interfaces.filter(({ forwarding }) => forwarding === "Enabled").map(({ alias }) => alias),
            ),
          ].map((alias) => `This machine forwards packets that come by "${alias}", and peers would pass through it.`),
        ];
      }),
    renewLease: () => Promise.reject(new FirewallNotLoaded(noExitOnWindows().message, { code: "firewall-not-loaded" })),
    closeLease: nothing,
    setClients: nothing,
    loaded: () => Promise.resolve(null),
    reset: (signal) =>
      queue.run(async () => {
        wanted = [];
        await removeGroup(exec, group, signal);
        await journal.remove({ kind: "windows-firewall" });
      }),
  };
}
