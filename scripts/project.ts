// Where the project's folders are, and what its package.json and go.mod pin.

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";

export const projectDir = resolve(import.meta.dir, "..");
export const buildDir = join(projectDir, "build");
export const distDir = join(projectDir, "dist");

/** The `version` field of a package.json, by its path below the project. */
export function packageVersion(path: string): string {
  const parsed: unknown = JSON.parse(readFileSync(join(projectDir, path), "utf8"));
  if (typeof parsed === "object" && parsed !== null && "version" in parsed && typeof parsed.version === "string") {
    return parsed.version;
  }
  throw new Error(`Cannot read the version in "${path}": there is none`);
}

/** The version at which go.mod pins a Go module. */
export function goModuleVersion(modulePath: string): string {
  for (const line of readFileSync(join(projectDir, "go.mod"), "utf8").split("\n")) {
    const [path, version] = line
      .replace(/^require\b/, "")
      .trim()
      .split(/\s+/);
    if (path === modulePath && version !== undefined) return version;
  }
  throw new Error(`Cannot find "${modulePath}" in go.mod`);
}
