// resolv.conf where it cannot be replaced by another file: containers mount it, services see /etc read-only.
import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runChildOrThrow } from "../../src/lab/spawn.ts";
import { requireLab } from "./harness.ts";

interface Seen {
  readonly refused: string | null;
  readonly set: boolean;
  readonly replaced: boolean;
  readonly back: boolean;
  readonly left: readonly string[];
}

/** In a mount namespace of its own; the mounts go with it. */
async function withMounts(kind: string): Promise<Seen> {
  await requireLab();
  const dir = mkdtempSync(join(tmpdir(), "higgs-dns-"));
  try {
    const program = join(import.meta.dir, "net-dns.program.ts");
    return JSON.parse(await runChildOrThrow(["unshare", "-m", process.execPath, program, kind, dir])) as Seen;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

describe("resolvConfDns()", () => {
  test("replaces an ordinary file in one step", async () => {
    const seen: Seen = { refused: null, set: true, replaced: true, back: true, left: ["resolv.conf"] };
    expect(await withMounts("an ordinary file")).toEqual(seen);
  });

  for (const kind of [
    "a mount point",
    "the one writable file of a read-only folder",
    "behind a link in a read-only folder",
  ]) {
    test(`writes ${kind} in place, and puts it back byte for byte`, async () => {
      const seen: Seen = { refused: null, set: true, replaced: false, back: true, left: ["resolv.conf"] };
      expect(await withMounts(kind)).toEqual(seen);
    });
  }

  test("refuses a file that nobody may write, and leaves nothing behind", async () => {
    const seen = await withMounts("in a read-only folder");
    expect(seen).toMatchObject({ set: false, replaced: false, back: true, left: ["resolv.conf"] });
    expect(seen.refused).toStartWith('Cannot write "/etc/resolv.conf": EROFS');
  });
});
