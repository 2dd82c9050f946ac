// The filter tables of the old iptables, which nft does not see: reads them, and finds what they drop of an exit's packets.
import { readFile } from "node:fs/promises";
import { type Exec, findTool } from "../exec.ts";

/** As `iptables-legacy-save -t filter` prints it; asked for only where it is loaded, since the tool would load it. Null where it cannot be read. */
export async function readLegacyFilter(exec: Exec, family: 4 | 6, signal: AbortSignal): Promise<string | null> {
  const [names, tool] =
    family === 4 ? ["ip_tables_names", "iptables-legacy-save"] : ["ip6_tables_names", "ip6tables-legacy-save"];
  const loaded = await readFile(`/proc/net/${names}`, "utf8").catch(() => ""); // not loaded, or not for us
  if (!loaded.split("\n").includes("filter") || findTool(tool) === null) return null;
  const { code, stdout } = await exec.run([tool, "-t", "filter"], { signal });
  return code === 0 ? stdout : null;
}

export interface LegacyDrop {
  readonly chain: "FORWARD" | "INPUT";
  readonly family: 4 | 6;
}

/** Pure: chains that drop by policy or by a rule without a condition, unless a rule of theirs, or of a chain that somebody made, accepts our interface. */
export function legacyDropsIn(
  saved: string,
  options: { readonly family: 4 | 6; readonly tunnel: string },
): readonly LegacyDrop[] {
  const lines = saved.split("\n");
  const accepted = new Set(
    lines.flatMap((line) => {
      const [, chain, name] = /^-A (\S+) (?:.* )?-i (\S+) (?:.* )?-j ACCEPT$/.exec(line) ?? [];
      return chain !== undefined && isOurs(name ?? "", options.tunnel) ? [chain] : [];
    }),
  );
  const isOfSomebody = [...accepted].some((chain) => !["INPUT", "FORWARD", "OUTPUT"].includes(chain));
  return (["FORWARD", "INPUT"] as const)
    .filter((chain) => {
      const drops = lines.some((line) => line.startsWith(`:${chain} DROP `) || END.exec(line)?.[1] === chain);
      return drops && !accepted.has(chain) && !isOfSomebody;
    })
    .map((chain) => ({ chain, family: options.family }));
}

/** A rule that everything ends at that comes to it. */
const END = /^-A (\S+) (?:-m comment --comment (?:"[^"]*"|\S+) )?-j (?:DROP|REJECT)(?: --reject-with \S+)?$/;

/** "higgs+" is every interface whose name begins so. */
function isOurs(name: string, tunnel: string): boolean {
  return name === tunnel || (name.endsWith("+") && tunnel.startsWith(name.slice(0, -1)));
}
