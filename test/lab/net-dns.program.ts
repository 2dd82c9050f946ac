// Runs in a mount namespace of its own: sets and puts back a resolv.conf that cannot be replaced, and prints what it saw.
import { lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errorText } from "../../src/base/errors.ts";
import { silentLogger } from "../../src/base/log.ts";
import { resolvConfDns } from "../../src/net/dns/resolv-conf.ts";
import { resolvConfText } from "../../src/net/dns/resolv-conf-text.ts";
import { ip } from "../unit/net/firewall/exit-policy.ts";
import { memoryJournal } from "../unit/net/memory-journal.ts";

const [kind = "", dir = ""] = process.argv.slice(2);
const etcDir = join(dir, "etc");
const runDir = join(dir, "run");
const stateDir = join(dir, "state");
const path = join(etcDir, "resolv.conf");
const original = `# ${"long ".repeat(100)}\nnameserver 192.0.2.1\n`;
for (const one of [etcDir, runDir, stateDir]) mkdirSync(one);

function mount(...args: readonly string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(["mount", ...args]);
  if (exitCode !== 0) throw new Error(stderr.toString());
}

if (kind === "behind a link in a read-only folder") {
  writeFileSync(join(runDir, "resolv.conf"), original);
  symlinkSync("../run/resolv.conf", path);
} else {
  writeFileSync(path, original);
}
if (kind.includes("mount point")) mount("--bind", path, path);
if (kind.includes("read-only")) {
  mount("--bind", etcDir, etcDir);
  mount("-o", "remount,ro,bind", etcDir);
}
if (kind === "the one writable file of a read-only folder") {
  writeFileSync(join(runDir, "real.conf"), original);
  mount("--bind", join(runDir, "real.conf"), path);
}

const journal = memoryJournal();
const dns = resolvConfDns({ stateDir, path, journal, log: silentLogger });
const policy = { interface: "higgs0", servers: [ip("10.83.0.1")] };
const { signal } = new AbortController();
let refused: string | null = null;
const inode = lstatSync(path).ino;
try {
  await dns.apply(policy, signal);
} catch (thrown) {
  refused = errorText(thrown).replaceAll(dir, "");
}
const set = readFileSync(path, "utf8") === resolvConfText(policy);
const replaced = lstatSync(path).ino !== inode;
await dns.reset(signal);
const back = readFileSync(path, "utf8") === original;
const left = [...readdirSync(etcDir), ...readdirSync(stateDir), journal.printed()].filter((name) => name !== "");
console.log(JSON.stringify({ refused, set, replaced, back, left }));
