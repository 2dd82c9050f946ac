// Programs of the tests' own in one file each, for hosts that see nothing of the project's folder.
import { join, resolve } from "node:path";

export const ROOT_DIR = resolve(import.meta.dir, "../..");

/** A program with all that it imports in one file; packages are found where the project has them. */
export async function bundleForHosts(name: string, source: string): Promise<string> {
  const entry = join(ROOT_DIR, "test/lab", name);
  const built = await Bun.build({ entrypoints: [entry], files: { [entry]: source }, target: "bun" });
  const [output] = built.outputs;
  if (output === undefined)
    throw new Error(`Cannot bundle ${name}: ${built.logs.map((log) => log.message).join("; ")}`);
  return await output.text();
}
