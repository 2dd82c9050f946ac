// A folder that several processes want at once is made by one of them, and the others have it too.
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT_DIR } from "./bundle.ts";

test("bug: of two test files that wanted the same Debian at once, the second took the first one's away while it was being made", async () => {
  const dir = mkdtempSync(join(tmpdir(), "higgs-once-"));
  try {
    const wanted = join(dir, "roots/one/key");
    const script = `
      import { madeOnce } from ${JSON.stringify(join(ROOT_DIR, "test/lab/made-once.ts"))};
      import { mkdirSync, writeFileSync } from "node:fs";
      await madeOnce(${JSON.stringify(wanted)}, async (workDir) => {
        mkdirSync(workDir + "/root");
        await Bun.sleep(500);
        writeFileSync(workDir + "/root/maker", "one");
        console.log("made");
        return workDir + "/root";
      });`;
    const said = await Promise.all(
      [1, 2, 3].map(async () => {
        const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
        return [await child.exited, await child.stdout.text()];
      }),
    );
    expect(said.map(([code]) => code)).toEqual([0, 0, 0]);
    expect(said.map(([, text]) => text).join("")).toBe("made\n");
    expect(readFileSync(join(wanted, "maker"), "utf8")).toBe("one");
    expect(readdirSync(join(dir, "roots/one"))).toEqual(["key"]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
