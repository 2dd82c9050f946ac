// The client's firewall as chains of iptables, where nft does no work: each family whole, one after the other.
import { SerialQueue } from "../../base/async.ts";
import type { HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import type { ClientFirewall, ClientFirewallPolicy, ClientFirewallWanted } from "./client.ts";
import { clientSentence } from "./client-sentence.ts";
import { FirewallNotLoaded, FirewallNotVerified } from "./errors.ts";
import { type Iptables, loadChains, readChains, removeChains } from "./iptables.ts";
import { chainDifferences, type IptablesChain } from "./iptables-chains.ts";
import { clientChains } from "./iptables-client-chains.ts";

export interface IptablesClientDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  /** Of each family that this kernel has. */
  readonly commands: readonly Iptables[];
  readonly log: Logger;
}

/** Calls are done one after the other, in their order. */
export function iptablesClientFirewall(deps: IptablesClientDeps): ClientFirewall {
  const { exec, journal, identifiers, commands, log } = deps;
  const { chainPrefix: prefix } = identifiers;
  const queue = new SerialQueue();
  let wanted: ClientFirewallPolicy | null = null;

  const differences = async (
    { iptables, chains }: { readonly iptables: Iptables; readonly chains: readonly IptablesChain[] },
    signal: AbortSignal,
  ): Promise<readonly string[]> => chainDifferences(chains, await readChains(exec, iptables, signal), prefix);

  const load = async (iptables: Iptables, policy: ClientFirewallPolicy, signal: AbortSignal): Promise<void> => {
    const chains = clientChains(policy, iptables.family, identifiers);
    const before = await loadChains(exec, { iptables, chains, prefix }, signal);
    if (before.length === 0) return;
    const { family } = iptables;
    log.info({ policy: clientSentence(policy), family, differences: before }, "loaded the client's firewall");
    const after = await differences({ iptables, chains }, signal);
    if (after.length > 0) throw notVerified(after);
  };

  const remove = async (signal: AbortSignal): Promise<void> => {
    await removeChains(exec, prefix, signal);
    await journal.remove({ kind: "iptables-chains" });
  };

  return {
    apply: ({ policy, egress }, signal) =>
      queue.run(async () => {
        if (policy.kind === "disconnected") await remove(signal);
        else {
          await journal.add({ kind: "iptables-chains" });
          // What one family cannot close must not keep the other open.
          const failed = await Promise.all(
            commands.map((iptables) => load(iptables, policy, signal).then(nothing, (thrown: unknown) => ({ thrown }))),
          );
          signal.throwIfAborted();
          for (const failure of failed) if (failure !== null) throw failure.thrown;
        }
        wanted = policy;
        // Everything else is closed by now.
        if (stopsFrames({ policy, egress })) throw rawFramesPass();
      }),

    closes: (signal) =>
      queue.run(async () => {
        for (const iptables of commands) {
          const rules = (await readChains(exec, iptables, signal)).get("filter")?.get(`${prefix}out`) ?? [];
          if (rules.length > 0) return true;
        }
        return false;
      }),

    verify: (signal) =>
      queue.run(async () => {
        const policy = wanted;
        if (policy === null) {
          throw new FirewallNotLoaded(`Cannot verify the iptables chains "${prefix}*": none were applied yet.`, {
            code: "firewall-not-loaded",
          });
        }
        const found: string[] = [];
        for (const iptables of commands) {
          const chains = clientChains(policy, iptables.family, identifiers);
          for (const one of await differences({ iptables, chains }, signal))
            found.push(`IPv${iptables.family}: ${one}`);
        }
        return found;
      }),

    reset: (signal) =>
      queue.run(async () => {
        wanted = null;
        await remove(signal);
      }),
  };
}

function nothing(): null {
  return null;
}

function stopsFrames({ policy, egress }: ClientFirewallWanted): boolean {
  return egress.length > 0 && policy.kind !== "disconnected" && policy.kind !== "exitless";
}

export function rawFramesPass(): HiggsError {
  return new FirewallNotLoaded("Cannot stop raw frames (--paranoid): without nft nothing on this machine sees them.", {
    code: "raw-frames-pass",
    remedy:
      "sudo apt install --no-install-recommends nftables; or close everything else: sudo higgs client lockdown on --no-paranoid",
  });
}

function notVerified(differences: readonly string[]): FirewallNotVerified {
  return new FirewallNotVerified(`Cannot rely on the client's firewall: ${differences.join(" ")}`, {
    code: "firewall-not-verified",
    remedy: "Another program may be changing the rules at the same time; see: sudo iptables-save",
  });
}
