// Takes out of package-lock.json what belongs to a machine; with --check, says whether it is out.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { projectDir } from "./project.ts";

/**
 * resolved: the registry that some machine happened to use.
 * engines: Bun runs every package. npm, under an older Node.js, would silently leave out native parts that ask for a newer one.
 */
const unwanted = ["resolved", "engines"];

const path = join(projectDir, "package-lock.json");
const lockfile: unknown = JSON.parse(readFileSync(path, "utf8"));
const found = new Set<string>();
for (const entry of Object.values(recordOf(recordOf(lockfile)["packages"]))) {
  const fields = recordOf(entry);
  for (const name of unwanted) {
    if (!(name in fields)) continue;
    found.add(name);
    delete fields[name];
  }
}

if (!process.argv.includes("--check")) {
  writeFileSync(path, `${JSON.stringify(lockfile, null, 2)}\n`);
} else if (found.size > 0) {
  console.error(`package-lock.json has ${[...found].join(" and ")}. Type: npm run lockfile`);
  process.exit(1);
}

function recordOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null)
    throw new Error("Cannot read package-lock.json: it has another form");
  return value as Record<string, unknown>;
}
