// The client's firewall by whatever mechanism works on this machine, and what another mechanism holds from before.
import type { Family } from "../../base/ip.ts";
import { tryEach } from "../remove-listed.ts";
import type { ClientFirewall } from "./client.ts";
import { iptablesClientFirewall } from "./iptables-client.ts";
import { clientTrial } from "./iptables-client-chains.ts";
import { type FirewallMechanism, findMechanism } from "./mechanism.ts";
import { nftClientFirewall } from "./nft-client.ts";
import { type Others, type OthersDeps, othersThan } from "./other-mechanisms.ts";
import { unfilteredClient } from "./unfiltered.ts";

export type ClientFirewallDeps = OthersDeps;

/** For whoever has no client's system: asks the machine what works here. */
export async function findClientFirewall(
  deps: ClientFirewallDeps,
  signal: AbortSignal,
): Promise<{ readonly firewall: ClientFirewall; readonly mechanism: FirewallMechanism }> {
  const { exec, identifiers } = deps;
  const trial = (family: Family) => clientTrial(family, identifiers);
  const mechanism = await findMechanism(exec, { identifiers, trial }, signal);
  return { firewall: clientFirewallBy(mechanism, deps), mechanism };
}

export function clientFirewallBy(mechanism: FirewallMechanism, deps: ClientFirewallDeps): ClientFirewall {
  switch (mechanism.kind) {
    case "nft":
      return alone(nftClientFirewall(deps), othersThan(mechanism, deps));
    case "iptables":
      return alone(iptablesClientFirewall({ ...deps, commands: mechanism.commands }), othersThan(mechanism, deps));
    case "none":
      return unfilteredClient(mechanism.trouble);
  }
}

/** Once `firewall` has loaded its own rules, it does so alone: others would keep closed what it opens, and stay when it is taken away. */
function alone(firewall: ClientFirewall, all: readonly Others[]): ClientFirewall {
  let isAlone = false;
  const removeOthers = async (signal: AbortSignal): Promise<void> => {
    await tryEach(all, (others) => others.remove(signal));
    isAlone = true;
  };
  const list = async (signal: AbortSignal): Promise<readonly string[]> =>
    (await Promise.all(all.map((others) => others.list(signal)))).flat();
  return {
    async apply(wanted, signal) {
      await firewall.apply(wanted, signal);
      if (!isAlone) await removeOthers(signal);
    },
    closes: async (signal) => (await firewall.closes(signal)) || (await list(signal)).length > 0,
    verify: async (signal) => [...(await firewall.verify(signal)), ...(await list(signal))],
    async reset(signal) {
      await tryEach([() => firewall.reset(signal), () => removeOthers(signal)], (remove) => remove());
    },
  };
}
