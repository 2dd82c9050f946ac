// Puts libSQL's native part for one target into the executable.

import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { buildDir, packageVersion, projectDir } from "./project.ts";
import type { Target } from "./targets.ts";

/** The path of the native part, fetched by npm when the package manager left it out because it is another platform's. */
export async function libsqlNative(target: Target): Promise<string> {
  const version = packageVersion("node_modules/libsql/package.json");
  const installed = join(projectDir, "node_modules", target.libsqlPackage, "index.node");
  if (existsSync(installed)) return installed;

  const dir = join(buildDir, "libsql", version, target.name);
  const fetched = join(dir, "node_modules", target.libsqlPackage, "index.node");
  if (existsSync(fetched)) return fetched;
  await mkdir(dir, { recursive: true });
  // --force: the package says that it is for another platform, and that is what it is wanted for.
  const wanted = `${target.libsqlPackage}@${version}`;
  const argv = [
    "npm",
    "install",
    "--no-save",
    "--no-package-lock",
    "--force",
    "--ignore-scripts",
    "--prefix",
    dir,
    wanted,
  ];
  const child = Bun.spawn(argv, { cwd: dir, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stderr, code] = await Promise.all([child.stderr.text(), child.exited, child.stdout.text()]);
  if (code !== 0 || !existsSync(fetched)) throw new Error(`Cannot fetch "${wanted}": ${stderr.trim()}`);
  return fetched;
}

/**
 * libsql finds its native part by a computed name, which no bundler can follow, after a look at the C library, which the
 * executable has no need of. Both are replaced by the one literal name of the target.
 */
export function libsqlNativePlugin(nativePath: string): Bun.BunPlugin {
  return {
    name: "libsql-native",
    setup(build) {
      build.onLoad({ filter: /[/\\]node_modules[/\\]libsql[/\\]index\.js$/ }, async ({ path }) => {
        const source = await readFile(path, "utf8");
        const literal = withLiteralNative(source, nativePath);
        if (literal === undefined)
          throw new Error(`Cannot build with this libsql: "${path}" loads its native part in another way`);
        return { contents: literal, loader: "js" };
      });
    },
  };
}

function withLiteralNative(source: string, nativePath: string): string | undefined {
  const start = source.indexOf('const { load, currentTarget } = require("@neon-rs/load");');
  const end = source.indexOf("\n}\n", source.indexOf("function requireNative() {"));
  if (start < 0 || end < start) return undefined;
  const native = `const requireNative = () => require(${JSON.stringify(nativePath)});\n`;
  return source.slice(0, start) + native + source.slice(end + "\n}\n".length);
}
