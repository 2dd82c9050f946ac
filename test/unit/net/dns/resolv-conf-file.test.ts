// Reading a resolv.conf that somebody else replaces at the same moment.
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readState } from "../../../../src/net/dns/resolv-conf-file.ts";

/** Puts a link, a file and nothing there in turn, as fast as it can. */
const REPLACING = `
const { renameSync, symlinkSync, unlinkSync, writeFileSync } = require("node:fs");
const path = process.argv[1];
console.log("begun");
for (;;) {
  symlinkSync("../run/stub.conf", path + ".link");
  renameSync(path + ".link", path);
  writeFileSync(path + ".file", "nameserver 192.0.2.1\\n");
  renameSync(path + ".file", path);
  unlinkSync(path);
}
`;

test("bug: a file that was replaced between two looks could not be read", async () => {
  const dir = mkdtempSync(join(tmpdir(), "higgs-replaced-"));
  const path = join(dir, "resolv.conf");
  writeFileSync(path, "");
  const replacing = Bun.spawn([process.execPath, "-e", REPLACING, path], { stdout: "pipe" });
  try {
    await replacing.stdout.getReader().read();
    const seen = new Set<string>();
    const end = performance.now() + 10_000;
    for (let look = 0; (look < 5000 || seen.size < 3) && performance.now() < end; look++) {
      seen.add((await readState(path)).kind);
    }
    expect([...seen].toSorted()).toEqual(["absent", "file", "symlink"]); // it was replaced meanwhile
  } finally {
    replacing.kill("SIGKILL");
    await replacing.exited;
    rmSync(dir, { recursive: true });
  }
}, 20_000);
