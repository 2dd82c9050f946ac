// A later version of the executable, built from a copy of this tree: another version number and, where it is asked for, one migration more.
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT_DIR } from "./bundle.ts";

const COPIED = ["src", "migrations", "scripts", "package.json", "tsconfig.json", "bunfig.toml", "go.mod", "go.sum"];
const SHARED = ["node_modules", "build"];

export interface NextVersion extends Disposable {
  readonly version: string;
  /** Of the executable. */
  readonly path: string;
}

export async function buildNextVersion(options: {
  readonly version: string;
  readonly hasMigration: boolean;
}): Promise<NextVersion> {
  const dir = mkdtempSync(join(tmpdir(), "higgs-next-"));
  const drop = (): void => rmSync(dir, { recursive: true, force: true });
  try {
    for (const name of COPIED) cpSync(join(ROOT_DIR, name), join(dir, name), { recursive: true });
    for (const name of SHARED) symlinkSync(join(ROOT_DIR, name), join(dir, name));
    change(join(dir, "package.json"), /"version": "[^"]+"/, `"version": "${options.version}"`);
    if (options.hasMigration) {
      writeFileSync(join(dir, "migrations/9999_next.sql"), "CREATE TABLE next (id INTEGER PRIMARY KEY) STRICT;\n");
      const migrations = join(dir, "src/server/db/migrate.ts");
      change(
        migrations,
        /^import \{ toHex/m,
        'import next from "../../../migrations/9999_next.sql" with { type: "text" };\nimport { toHex',
      );
      const count = [...readFileSync(migrations, "utf8").matchAll(/\{ version: \d+, sql/g)].length;
      change(migrations, /^\];/m, `  { version: ${count + 1}, sql: next },\n];`);
    }
    const child = Bun.spawn([process.execPath, "scripts/build.ts"], { cwd: dir, stdout: "pipe", stderr: "pipe" });
    const [said, code] = await Promise.all([child.stderr.text(), child.exited]);
    if (code !== 0) throw new Error(`Cannot build the next version: ${said}`);
    return { version: options.version, path: join(dir, "dist/higgs"), [Symbol.dispose]: drop };
  } catch (thrown) {
    drop();
    throw thrown;
  }
}

function change(path: string, from: RegExp, to: string): void {
  const before = readFileSync(path, "utf8");
  const after = before.replace(from, to);
  if (after === before) throw new Error(`Cannot change ${path}: there is no ${String(from)}.`);
  writeFileSync(path, after);
}
