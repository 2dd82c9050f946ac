// Finds other programs' rules of iptables that drop what an exit forwards, or what its clients ask its resolver, where nft does no work.
import { type Exec, ToolMissing } from "../exec.ts";
import { BESIDES, DROPS } from "./foreign.ts";
import { commandsOf, type Iptables, variantOf } from "./iptables.ts";
import { legacyDropsIn } from "./legacy.ts";

export interface ForeignOf {
  /** Those that have our own rules too. */
  readonly commands: readonly Iptables[];
  readonly tunnel: string;
}

/** One sentence for each chain, as `foreignDrops`. Of both kinds of iptables: whichever has the rule, it holds. */
export async function iptablesForeignDrops(
  exec: Exec,
  { commands, tunnel }: ForeignOf,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const [first] = commands;
  if (first === undefined) return [];
  const other = (await variantOf(exec, first, signal)) === "nft" ? "iptables-legacy" : "iptables-nft";
  const found: string[] = [];
  for (const [all, where] of [
    [commands, ""],
    [commandsOf(other), BESIDES],
  ] as const) {
    for (const { family, save } of all) {
      const saved = await savedFilter(exec, save, signal);
      for (const { chain } of legacyDropsIn(saved, { family, tunnel })) {
        const what = DROPS[chain === "FORWARD" ? "forward" : "input"];
        found.push(`The chain "${chain}" of "${save.replace(/-save$/, "")}"${where} ${what}`);
      }
    }
  }
  return found;
}

/** A command that is missing, or does no work here, holds nothing that could be seen. */
async function savedFilter(exec: Exec, save: string, signal: AbortSignal): Promise<string> {
  try {
    const { code, stdout } = await exec.run([save, "-t", "filter"], { signal });
    return code === 0 ? stdout : "";
  } catch (thrown) {
    if (thrown instanceof ToolMissing) return "";
    throw thrown;
  }
}
