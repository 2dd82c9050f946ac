// A folder that several test files need and whoever comes first makes: the others wait for it, also where they are other processes.
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";

const MAKING = "making-";

/** Resolves when `dir` is there. `make` gets a working folder beside it, and resolves with what is to be moved to `dir`. */
export async function madeOnce(dir: string, make: (workDir: string) => Promise<string>): Promise<void> {
  if (existsSync(dir)) return;
  const parent = dirname(dir);
  await mkdir(parent, { recursive: true });
  await using _ = await lock(`${parent}.lock`);
  if (existsSync(dir)) return; // made while this one waited
  // What somebody left who was killed: nobody else makes anything here now.
  const left = (await readdir(parent)).filter((name) => name.startsWith(MAKING));
  for (const name of left) await rm(join(parent, name), { recursive: true, force: true });
  const workDir = await mkdtemp(join(parent, MAKING));
  try {
    await rename(await make(workDir), dir);
  } finally {
    await rm(workDir, { recursive: true, force: true });
  }
}

/** The kernel's own, by a program that ends with this process at the latest: nobody waits for one that is gone. */
async function lock(path: string): Promise<AsyncDisposable> {
  const child = Bun.spawn(["flock", path, "sh", "-c", "echo locked; exec cat"], { stdin: "pipe", stdout: "pipe" });
  const { value } = await child.stdout.getReader().read();
  if (value === undefined) throw new Error(`Cannot lock "${path}".`);
  return {
    async [Symbol.asyncDispose]() {
      await child.stdin.end();
      await child.exited;
    },
  };
}
