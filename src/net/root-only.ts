// Whether a path is one that only root can change: what root starts, or lets others start, must lie there.
import { readFileSync } from "node:fs";
import { lstat } from "node:fs/promises";
import { dirname } from "node:path";

export interface RootOnlyProblem {
  readonly path: string;
  readonly why: string;
}

/** Looks at the path and all above it, up to the root; null when nobody else can change any of it. `path` has no links in it. */
export async function rootOnlyProblem(
  path: string,
  kind: "folder" | "file" = "folder",
): Promise<RootOnlyProblem | null> {
  for (let at = path; ; at = dirname(at)) {
    const facts = await lstat(at);
    const mode = (facts.mode & 0o7777).toString(8).padStart(4, "0");
    if (!(at === path && kind === "file" ? facts.isFile() : facts.isDirectory())) {
      return { path: at, why: `it is no ${at === path ? kind : "folder"}` };
    }
    if (!isTrustedOwner(facts.uid)) return { path: at, why: `it belongs to the user ${facts.uid} and not to root` };
    if ((facts.mode & 0o022) !== 0) return { path: at, why: `its mode is ${mode}, which lets others write to it` };
    if (at === dirname(at)) return null;
  }
}

/**
 * Root. In a user namespace the machine's real root is shown as the overflow user, and so is everybody else who is not
 * mapped; none of them can be told apart there, and what we start has no more rights than we have.
 */
export function isTrustedOwner(uid: number): boolean {
  return uid === 0 || uid === overflowUser();
}

/** Null in the machine's own user namespace, where nobody stands for somebody else. */
function overflowUser(): number | null {
  try {
    const map = readFileSync("/proc/self/uid_map", "utf8").trim().split(/\s+/);
    return map.join(" ") === "0 0 4294967295" ? null : Number(readFileSync("/proc/sys/kernel/overflowuid", "utf8"));
  } catch {
    return null; // a kernel without user namespaces
  }
}
