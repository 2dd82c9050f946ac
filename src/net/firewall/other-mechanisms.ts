// What of a role is in force by another mechanism than the one that works now: found, and taken away.
import type { HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, ToolFailed, ToolMissing } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal, UndoEntry } from "../journal.ts";
import { FirewallNotLoaded } from "./errors.ts";
import { type IptablesVariant, listChains, removeChains, variantOf } from "./iptables.ts";
import type { FirewallMechanism } from "./mechanism.ts";
import { removeTable } from "./nft.ts";

export interface OthersDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

/** What of ours is in force by another mechanism: of a process before this one, as this one chose its own. */
export interface Others {
  list(signal: AbortSignal): Promise<readonly string[]>;
  /** Harmless twice. */
  remove(signal: AbortSignal): Promise<void>;
}

/** `keep`: the variant that is in use, if any. */
function chainsOf(
  { exec, identifiers, journal, log }: OthersDeps,
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
function tablesOf({ exec, identifiers, journal, log }: OthersDeps, nftTrouble: HiggsError): Others {
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

/** For a mechanism that does its work. */
export function othersThan(
  mechanism: Exclude<FirewallMechanism, { readonly kind: "none" }>,
  deps: OthersDeps,
): readonly Others[] {
  if (mechanism.kind === "nft") return [chainsOf(deps, () => Promise.resolve(null))];
  const [first] = mechanism.commands;
  const ours = async (signal: AbortSignal): Promise<IptablesVariant | null> =>
    first === undefined ? null : await variantOf(deps.exec, first, signal);
  return [chainsOf(deps, ours), tablesOf(deps, mechanism.nftTrouble)];
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
