// The exit's firewall by whatever mechanism works on this machine, and what another mechanism holds from before.
import { tryEach } from "../remove-listed.ts";
import type { Sysctl } from "../sysctl.ts";
import type { ExitFirewall } from "./exit.ts";
import { foreignDrops } from "./foreign.ts";
import { iptablesExitFirewall } from "./iptables-exit.ts";
import { iptablesForeignDrops } from "./iptables-foreign.ts";
import { sendPulse } from "./lease-pulse.ts";
import type { FirewallMechanism } from "./mechanism.ts";
import { nftExitFirewall } from "./nft-exit.ts";
import { type Others, type OthersDeps, othersThan } from "./other-mechanisms.ts";
import { unfilteredNode } from "./unfiltered.ts";

export interface ExitFirewallDeps extends OthersDeps {
  readonly sysctl: Pick<Sysctl, "read">;
}

export interface ExitBy {
  readonly firewall: ExitFirewall;
  /** Rules of others that would swallow what is forwarded, as sentences. */
  readonly foreignDrops: (signal: AbortSignal) => Promise<readonly string[]>;
}

export function exitBy(mechanism: FirewallMechanism, deps: ExitFirewallDeps): ExitBy {
  const { exec, identifiers } = deps;
  switch (mechanism.kind) {
    case "nft":
      return {
        firewall: alone(nftExitFirewall(deps), othersThan(mechanism, deps)),
        foreignDrops: (signal) => foreignDrops(exec, identifiers, signal),
      };
    case "iptables": {
      const { commands } = mechanism;
      return {
        firewall: alone(iptablesExitFirewall({ ...deps, commands, pulse: sendPulse }), othersThan(mechanism, deps)),
        foreignDrops: (signal) => iptablesForeignDrops(exec, { commands, tunnel: identifiers.interface }, signal),
      };
    }
    case "none":
      return { firewall: unfilteredNode(deps), foreignDrops: () => Promise.resolve([]) };
  }
}

/** Once `firewall` isolates, it does so alone: nobody renews the lease of the others, which would keep closed what it opens. */
function alone(firewall: ExitFirewall, all: readonly Others[]): ExitFirewall {
  let isAlone = false;
  const removeOthers = async (signal: AbortSignal): Promise<void> => {
    await tryEach(all, (others) => others.remove(signal));
    isAlone = true;
  };
  return {
    async apply(policy, signal) {
      await firewall.apply(policy, signal);
      if (!isAlone) await removeOthers(signal);
    },
    renewLease: (signal) => firewall.renewLease(signal),
    closeLease: (signal) => firewall.closeLease(signal),
    setClients: (clients, signal) => firewall.setClients(clients, signal),
    loaded: (signal) => firewall.loaded(signal),
    verify: (signal) => firewall.verify(signal),
    async reset(signal) {
      await tryEach([() => firewall.reset(signal), () => removeOthers(signal)], (remove) => remove());
    },
  };
}
