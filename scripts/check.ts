// The one gate, the same here and in CI: types, lint, format, lockfile, dead code, architecture.

import { join } from "node:path";
import { projectDir } from "./project.ts";

const steps: readonly { readonly name: string; readonly argv: readonly string[] }[] = [
  { name: "types", argv: tool("tsc", "--noEmit") },
  { name: "lint", argv: tool("oxlint", "--type-aware", "--deny-warnings") },
  { name: "format", argv: tool("biome", "format", "--max-diagnostics=50") },
  { name: "lockfile", argv: [process.execPath, "scripts/lockfile.ts", "--check"] },
  { name: "dead code", argv: tool("knip") },
  { name: "architecture", argv: [process.execPath, "test", "--timeout=20000", "./test/arch/"] },
];

let failed = 0;
for (const { name, argv } of steps) {
  const started = performance.now();
  const child = Bun.spawn([...argv], { cwd: projectDir, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${code === 0 ? "ok    " : "FAILED"} ${name} (${seconds} s)`);
  if (code === 0) continue;
  failed += 1;
  console.log(`${stdout}${stderr}`.trimEnd().replaceAll(/^(?=.)/gm, "    "));
}
console.log(failed === 0 ? "check: all is well" : `check: ${failed} of ${steps.length} failed`);
process.exit(failed === 0 ? 0 : 1);

/** The tools are run by Bun, which is pinned; the Node.js of the machine may be too old for them. */
function tool(name: string, ...args: string[]): string[] {
  return [process.execPath, "--bun", join(projectDir, "node_modules/.bin", name), ...args];
}
