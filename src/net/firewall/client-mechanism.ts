// The client's firewall by whatever mechanism works on this machine, and what another mechanism holds from before.
import type { HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, ToolFailed, ToolMissing } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal, UndoEntry } from "../journal.ts";
import type { ClientFirewall } from "./client.ts";
import { FirewallNotLoaded } from "./errors.ts";
import { iptablesClientFirewall } from "./iptables-client.ts";
import { clientTrial } from "./iptables-client-chains.ts";
import { type IptablesVariant, listChains, removeChains, variantOf } from "./iptables.ts";
import { type FirewallMechanism, findMechanism } from "./mechanism.ts";
import { removeTable } from "./nft.ts";
import { nftClientFirewall } from "./nft-client.ts";
import { unfilteredClient } from "./unfiltered.ts";

export interface ClientFirewallDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

/** For whoever has no client's system: asks the machine what works here. */
export async function findClientFirewall(
  deps: ClientFirewallDeps,
  signal: AbortSignal,
): Promise<{ readonly firewall: ClientFirewall; readonly mechanism: FirewallMechanism }> {
  const { exec, identifiers } = deps;
  const trial = (family: 4 | 6) => clientTrial(family, identifiers);
  const mechanism = await findMechanism(exec, { identifiers, trial }, signal);
  return { firewall: clientFirewallBy(mechanism, deps), mechanism };
}

export function clientFirewallBy(mechanism: FirewallMechanism, deps: ClientFirewallDeps): ClientFirewall {
  switch (mechanism.kind) {
    case "nft":
      return alone(nftClientFirewall(deps), [chainsOf(deps, () => Promise.resolve(null))]);
    case "iptables": {
      const { commands, nftTrouble } = mechanism;
      const [first] = commands;
      const ours = async (signal: AbortSignal): Promise<IptablesVariant | null> =>
        first === undefined ? null : await variantOf(deps.exec, first, signal);
      const others = [chainsOf(deps, ours), tablesOf(deps, nftTrouble)];
      return alone(iptablesClientFirewall({ ...deps, commands }), others);
    }
    case "none":
      return unfilteredClient(mechanism.trouble);
  }
}

/** What of ours is in force by another mechanism: of a process before this one, as this one chose its own. */
interface Others {
  list(signal: AbortSignal): Promise<readonly string[]>;
  /** Harmless twice. */
  remove(signal: AbortSignal): Promise<void>;
}

/** `keep`: the variant that is in use, if any. */
function chainsOf(
  { exec, identifiers, journal, log }: ClientFirewallDeps,
  keep: (signal: AbortSignal) => Promise<IptablesVariant | null>,
): Others {
  const { chainPrefix } = identifiers;
  const what = `the iptables chains ${chainPrefix}*`;
  return {
    async list(signal) {
      const but = await keep(signal);
      const found = await listChains(exec, chainPrefix, but === null ? signal : { signal, but });
      return found.length === 0 ? [] : [`${what} are in force besides.`.replace("the", "The")];
    },
    async remove(signal) {
      const but = await keep(signal);
      if (await removeChains(exec, chainPrefix, but === null ? signal : { signal, but })) {
        log.info({}, `removed ${what} that were in force besides`);
      }
      if (but === null) await journal.remove({ kind: "iptables-chains" });
    },
  };
}

/** Without nft nobody lists its tables, so the journal alone knows of them; the kernel takes them away when it is asked. */
function tablesOf({ exec, identifiers, journal, log }: ClientFirewallDeps, nftTrouble: HiggsError): Others {
  const tables = [
    { kind: "nft-table", table: identifiers.table, family: "inet" },
    { kind: "egress-table", table: identifiers.egressTable, family: "netdev" },
  ] as const;
  const isLeft = (kind: UndoEntry["kind"]): boolean => journal.entries().some((entry) => entry.kind === kind);
  return {
    list: () =>
      Promise.resolve(
        tables
          .filter(({ kind }) => isLeft(kind))
          .map(({ table, family }) => `The nft table ${family} ${table} is in force besides.`),
      ),
    async remove(signal) {
      for (const { kind, table, family } of tables) {
        try {
          if (await removeTable(exec, { table, family }, signal)) {
            log.info({ table }, "removed an nft table that was in force besides");
          }
          await journal.remove({ kind });
        } catch (thrown) {
          if (!(thrown instanceof ToolMissing || thrown instanceof ToolFailed)) throw thrown;
          // What nobody made cannot be taken away either.
          if (isLeft(kind)) throw inForce(nftTrouble);
        }
      }
    },
  };
}

/** Once `firewall` has loaded its own rules, it does so alone: others would keep closed what it opens, and stay when it is taken away. */
function alone(firewall: ClientFirewall, all: readonly Others[]): ClientFirewall {
  let isAlone = false;
  const removeOthers = async (signal: AbortSignal): Promise<void> => {
    for (const others of all) await others.remove(signal);
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
      await firewall.reset(signal);
      await removeOthers(signal);
    },
  };
}

function inForce(nftTrouble: HiggsError): FirewallNotLoaded {
  return new FirewallNotLoaded(
    `Cannot open what an earlier run closed by nft, as nft does no work any more: ${nftTrouble.message}`,
    {
      code: "nft-left",
      remedy: nftTrouble.remedy ?? "Start this machine anew, which takes those rules away.",
      cause: nftTrouble,
    },
  );
}
