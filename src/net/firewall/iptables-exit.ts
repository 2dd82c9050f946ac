// The exit's firewall by iptables, where nft does no work: isolation that persists, and a lease on which everything permitted hangs.
import { SerialQueue } from "../../base/async.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import { type Identifiers, LEASE_MARK } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { FirewallNotLoaded } from "./errors.ts";
import { type ExitClients, type ExitFirewall, type ExitKept, type ExitPolicy, exitSentence } from "./exit.ts";
import { type Iptables, loadChains, readChains, removeChains } from "./iptables.ts";
import { chainDifferences } from "./iptables-chains.ts";
import { exitChains, keptIn } from "./iptables-exit-chains.ts";
import { LEASE_PORTS } from "./iptables-lease.ts";
import type { Pulse } from "./lease-pulse.ts";

export interface IptablesExitDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
  /** Of each family, in the order in which they are loaded. */
  readonly commands: readonly Iptables[];
  readonly pulse: Pulse;
}

/**
 * Calls are done one after the other, in their order. A family is a transaction a table: its rules of "filter", which close, come before
 * those by which packets leave as the node's.
 */
export function iptablesExitFirewall(deps: IptablesExitDeps): ExitFirewall {
  return new IptablesExitFirewall(deps);
}

class IptablesExitFirewall implements ExitFirewall {
  readonly #deps: IptablesExitDeps;
  readonly #queue = new SerialQueue();
  #policy: ExitPolicy | null = null;

  constructor(deps: IptablesExitDeps) {
    this.#deps = deps;
  }

  apply(policy: ExitPolicy, signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      const { journal, log } = this.#deps;
      const differences = await this.#differences(policy, signal);
      if (!journal.entries().some((entry) => entry.kind === "iptables-chains")) {
        await journal.add({ kind: "iptables-chains" });
      }
      if (differences.length > 0) {
        log.info({ policy: exitSentence(policy), differences }, "loading the exit's firewall");
        await this.#load(policy, signal);
      }
      this.#policy = policy;
      if (policy.open) await this.#pulse(LEASE_PORTS.renew);
    });
  }

  renewLease(_signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      this.#applied();
      await this.#pulse(LEASE_PORTS.renew);
    });
  }

  closeLease(_signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => await this.#pulse(LEASE_PORTS.close));
  }

  setClients({ clients4, clients6 }: ExitClients, signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      const policy = { ...this.#applied(), clients4, clients6 };
      await this.#load(policy, signal);
      this.#policy = policy;
    });
  }

  loaded(signal: AbortSignal): Promise<ExitKept | null> {
    return this.#queue.run(async () => {
      const { exec, commands, identifiers } = this.#deps;
      const found: ExitKept[] = [];
      for (const iptables of commands) {
        const kept = keptIn(await readChains(exec, iptables, signal), identifiers.chainPrefix);
        if (kept !== null) found.push(kept);
      }
      if (found.length === 0) return null;
      return {
        clients4: found.flatMap(({ clients4 }) => clients4),
        clients6: found.flatMap(({ clients6 }) => clients6),
        here: found.flatMap(({ here }) => here),
      };
    });
  }

  verify(signal: AbortSignal): Promise<readonly string[]> {
    return this.#queue.run(async () => await this.#differences(this.#applied(), signal));
  }

  reset(signal: AbortSignal): Promise<void> {
    return this.#queue.run(async () => {
      const { exec, journal, identifiers } = this.#deps;
      this.#policy = null;
      await removeChains(exec, identifiers.chainPrefix, signal);
      await journal.remove({ kind: "iptables-chains" });
    });
  }

  async #load(policy: ExitPolicy, signal: AbortSignal): Promise<void> {
    const { exec, commands, identifiers } = this.#deps;
    for (const iptables of commands) {
      const chains = exitChains(iptables.family, { policy, identifiers });
      await loadChains(exec, { iptables, chains, prefix: identifiers.chainPrefix }, signal);
    }
  }

  async #differences(policy: ExitPolicy, signal: AbortSignal): Promise<readonly string[]> {
    const { exec, commands, identifiers } = this.#deps;
    const found: string[] = [];
    for (const iptables of commands) {
      const wanted = exitChains(iptables.family, { policy, identifiers });
      const saved = await readChains(exec, iptables, signal);
      const differences = chainDifferences(wanted, saved, identifiers.chainPrefix);
      found.push(...differences.map((text) => `IPv${iptables.family}: ${text}`));
    }
    return found;
  }

  /** A family that this machine has no address of stays closed. */
  async #pulse(port: number): Promise<void> {
    const { commands, identifiers, pulse } = this.#deps;
    for (const { family } of commands) {
      const outcome = await pulse({ family, port, mark: LEASE_MARK.mark });
      if (outcome === "passed") throw notLoaded(identifiers.chainPrefix);
    }
  }

  #applied(): ExitPolicy {
    if (this.#policy === null) throw notLoaded(this.#deps.identifiers.chainPrefix);
    return this.#policy;
  }
}

function notLoaded(prefix: string): FirewallNotLoaded {
  return new FirewallNotLoaded(
    `Cannot change the exit's firewall: the chains "${prefix}*" of iptables are not loaded.`,
    {
      code: "firewall-not-loaded",
    },
  );
}
