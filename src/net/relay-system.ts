// Makes this machine relay UDP in its kernel where it may and can, says why where not, and puts everything back.
import { errorText } from "../base/errors.ts";
import { type Family, familyOf, type IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import { type Exec, findTool, ToolMissing } from "./exec.ts";
import { forwardDropsIn } from "./firewall/foreign.ts";
import { FORWARD4, FORWARD6, forwardsForUs, interfaceNames } from "./forwarding.ts";
import type { Journal } from "./journal.ts";
import { nftRelayTable, removeRelayTables, type RelayTable } from "./relay-table.ts";
import { removeTrial, tryRelay } from "./relay-trial.ts";
import { removeEach } from "./remove-listed.ts";
import type { Sysctl } from "./sysctl.ts";

export interface RelaySystemDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly sysctl: Sysctl;
  /** CAP_NET_ADMIN. */
  readonly netAdmin: boolean;
  readonly log: Logger;
}

export interface PreparedRelay {
  readonly table: RelayTable;
  readonly families: ReadonlySet<Family>;
  readonly reserved: ReadonlySet<number>;
}

/** Why the process relays, as a sentence, and what would change it. */
export interface RelayRefusal {
  readonly reason: string;
  readonly remedy: string | null;
}

/**
 * `addresses`: the machine's own, at most one of each family. IPv4's forwarding is switched on where it is off, and then between the
 * interfaces there are nothing else is forwarded. IPv6's is left as it is: switching it on may cost a machine its default route.
 */
export async function prepareKernelRelay(
  deps: RelaySystemDeps,
  options: { readonly addresses: readonly IpAddress[]; readonly trialPort: number },
  signal: AbortSignal,
): Promise<PreparedRelay | RelayRefusal> {
  const refusal = privilegeMissing(deps) ?? (await foreignDrops(deps.exec, signal));
  if (refusal !== null) return refusal;
  const table = nftRelayTable(deps);
  try {
    const six = (await deps.sysctl.read(FORWARD6)) === "1";
    const four = (await deps.sysctl.read(FORWARD4)) === "1";
    const addresses = options.addresses.filter((address) => six || familyOf(address) === 4);
    const families = new Set(addresses.map(familyOf));
    if (families.size === 0) return { reason: "This machine forwards no IPv6.", remedy: `sysctl -w ${FORWARD6}=1` };
    const fence = families.has(4) && (await forwardsForUs(FORWARD4, deps)) ? await interfaceNames() : [];
    // The fence stands before anything is forwarded.
    const reserved = await table.apply({ addresses, fence }, signal);
    if (families.has(4) && !four) await deps.sysctl.set(FORWARD4, "1");
    if (families.has(4) && (await tryRelay({ ...deps, table }, options.trialPort, signal)) === "swallowed") {
      await resetKernelRelay(deps, signal);
      return { reason: "Something on this machine drops what it forwards.", remedy: null };
    }
    return { table, families, reserved };
  } catch (thrown) {
    signal.throwIfAborted();
    await resetKernelRelay(deps, signal).catch((again: unknown) => {
      deps.log.warn({ error: errorText(again) }, "cannot take back what the kernel relay needs");
    });
    return { reason: errorText(thrown), remedy: null };
  }
}

function privilegeMissing({ netAdmin }: RelaySystemDeps): RelayRefusal | null {
  if (!netAdmin) return { reason: "This process lacks the capability CAP_NET_ADMIN.", remedy: "sudo higgs server" };
  for (const [tool, name] of [
    ["nft", "nftables"],
    ["conntrack", "conntrack"],
    ["ip", "iproute2"],
  ] as const) {
    if (findTool(tool) !== null) continue;
    const remedy = `sudo apt install --no-install-recommends ${name}`;
    return { reason: `The tool "${tool}" is not on this machine.`, remedy };
  }
  return null;
}

async function foreignDrops(exec: Exec, signal: AbortSignal): Promise<RelayRefusal | null> {
  const result = await exec.run(["nft", "-j", "list", "ruleset"], { signal });
  // Rules of iptables' own extensions make some versions of nft fail here; the trial finds out then.
  if (result.code !== 0) return null;
  const [reason] = forwardDropsIn(JSON.parse(result.stdout), "");
  return reason === undefined ? null : { reason, remedy: "Let it accept UDP from and to the relay's ports." };
}

/** By fixed names and the journal; harmless when there is nothing, and where the tools are missing. Resolves with sentences. */
export async function resetKernelRelay(
  deps: Pick<RelaySystemDeps, "exec" | "sysctl">,
  signal: AbortSignal,
): Promise<readonly string[]> {
  // Forwarding ends before the fence goes.
  const said = await deps.sysctl.restore();
  const trial = async (): Promise<boolean> => {
    await removeTrial(deps.exec, signal);
    return false;
  };
  const wereThere = await removeEach([trial, () => removeRelayTables(deps.exec, signal)], async (remove) => {
    try {
      return await remove();
    } catch (thrown) {
      if (thrown instanceof ToolMissing) return false;
      throw thrown;
    }
  });
  return wereThere ? [...said, "Removed the nft tables of the relay."] : said;
}
