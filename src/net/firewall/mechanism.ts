// Which mechanism closes and isolates on this machine: nft, iptables where nft does no work, or none, and why.
import { existsSync } from "node:fs";
import { HiggsError } from "../../base/errors.ts";
import { type Exec, ToolFailed, ToolMissing } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import { FirewallNotLoaded } from "./errors.ts";
import { type ChainsOf, findIptables, type Iptables } from "./iptables.ts";

export type FirewallMechanism =
  | { readonly kind: "nft" }
  /** Commands of each family that this kernel has, IPv4 first. `nftTrouble`: why not nft. */
  | { readonly kind: "iptables"; readonly commands: readonly Iptables[]; readonly nftTrouble: HiggsError }
  | { readonly kind: "none"; readonly nftTrouble: HiggsError; readonly trouble: HiggsError };

/**
 * Asked once, before anything is touched; nothing of the trials stays. `trial`: what the role's chains of iptables need, and null for
 * one that has none.
 */
export async function findMechanism(
  exec: Exec,
  wanted: { readonly identifiers: Pick<Identifiers, "table">; readonly trial: ChainsOf | null },
  signal: AbortSignal,
): Promise<FirewallMechanism> {
  const nftTrouble = await troubleOfNft(exec, wanted.identifiers, signal);
  if (nftTrouble === null) return { kind: "nft" };
  if (wanted.trial === null) return { kind: "none", nftTrouble, trouble: nftTrouble };
  const found = await findIptables(exec, { ipv6: hasIpv6Packets(), trial: wanted.trial }, signal);
  if (!(found instanceof HiggsError)) return { kind: "iptables", commands: found, nftTrouble };
  const trouble = new ToolFailed(`${nftTrouble.message} ${found.message}`, {
    code: nftTrouble.code,
    ...(nftTrouble.remedy === undefined ? {} : { remedy: nftTrouble.remedy }),
    cause: found,
  });
  return { kind: "none", nftTrouble, trouble };
}

/**
 * Why a service, which has CAP_NET_ADMIN and no other right, could close and isolate nothing on this machine; null where it can. The
 * older iptables asks for CAP_NET_RAW too, and for a lock file that is root's and that everybody else's commands wait for.
 */
export async function serviceTrouble(
  exec: Exec,
  wanted: {
    readonly identifiers: Pick<Identifiers, "table">;
    readonly trial: ChainsOf;
    /** What runs the role without a service. */
    readonly byHand: string;
  },
  signal: AbortSignal,
): Promise<HiggsError | null> {
  const { identifiers, trial, byHand } = wanted;
  const nftTrouble = await troubleOfNft(exec, identifiers, signal);
  if (nftTrouble === null) return null;
  const found = await findIptables(exec, { ipv6: hasIpv6Packets(), trial, only: "nft" }, signal);
  if (!(found instanceof HiggsError)) return null;
  return new FirewallNotLoaded(
    `Cannot install what no firewall would hold: ${nftTrouble.message} The older iptables, where it is here, asks a service for root.`,
    {
      code: "service-refused",
      remedy: `${nftTrouble.remedy ?? "Mend nft"}; or run it by hand: ${byHand}`,
      cause: nftTrouble,
    },
  );
}

/** Null where it does its work. A table that is made and taken away in one transaction: nothing of it is ever in place. */
export async function troubleOfNft(
  exec: Exec,
  { table }: Pick<Identifiers, "table">,
  signal: AbortSignal,
): Promise<HiggsError | null> {
  const trial = `${table}_trial`;
  const stdin = `table inet ${trial} {\n}\ndelete table inet ${trial}\n`;
  const running = exec.run(["nft", "-f", "-"], { stdin, signal });
  const result = await running.catch((thrown: unknown) => {
    if (thrown instanceof ToolMissing) return thrown;
    throw thrown;
  });
  if (result instanceof ToolMissing) return result;
  const { code, stderr } = result;
  if (code === 0) return null;
  return new ToolFailed(`Cannot use nft on this machine: ${stderr.trim().split("\n")[0] || `exit code ${code}`}.`, {
    code: "nft-unusable",
    remedy: "Load its part of the kernel (sudo modprobe nf_tables), and see whether this works: sudo nft list ruleset",
  });
}

/** Also where a setting keeps interfaces from having an address, as it may be changed at any time. */
export function hasIpv6Packets(): boolean {
  return existsSync("/proc/net/if_inet6");
}
