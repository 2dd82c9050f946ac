// coturn, to be compared with: the one on PATH, or Debian's package in a folder of its own, with the libraries that this machine lacks.
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { progress } from "./lib.ts";

export interface Coturn {
  /** What stands before a program's arguments. */
  argv(program: "turnserver" | "turnutils_uclient" | "turnutils_peer"): readonly string[];
  /** To be seen by lab hosts; null where the system's own folders have it all. */
  readonly dir: string | null;
}

const DIR = resolve(import.meta.dir, "../build/coturn");

/** Null where there is none and apt-get brings none; says why. */
export function findCoturn(): Coturn | null {
  if (Bun.which("turnserver") !== null) return { argv: (program) => [program], dir: null };
  try {
    if (!existsSync(join(DIR, "root/usr/bin/turnserver"))) fetchCoturn();
  } catch (thrown) {
    progress(`coturn is left out: ${(thrown as Error).message}`);
    return null;
  }
  const root = join(DIR, "root");
  const libraries = join(root, "usr/lib", `${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu`);
  return {
    argv: (program) => ["env", `LD_LIBRARY_PATH=${libraries}`, join(root, "usr/bin", program)],
    dir: DIR,
  };
}

/** Nothing is installed: the packages are taken apart. */
function fetchCoturn(): void {
  progress("fetching Debian's coturn into build/coturn");
  const packages = join(DIR, "packages");
  mkdirSync(packages, { recursive: true });
  const wanted = ["coturn", ...lackingLibraries()];
  run(["apt-get", "-o", "APT::Sandbox::User=root", "download", ...wanted], packages);
  for (const name of readdirSync(packages)) run(["dpkg", "-x", name, join(DIR, "root")], packages);
}

/** Libraries that coturn needs, directly or not, and that are not installed. */
function lackingLibraries(): string[] {
  const flags = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"].map((what) => `--no-${what}`);
  const text = run(["apt-cache", "depends", "--recurse", ...flags, "coturn"], DIR);
  const names = new Set(text.split("\n").filter((line) => /^lib[a-z0-9.+-]+$/.test(line)));
  return [...names].filter((name) => {
    const status = Bun.spawnSync(["dpkg-query", "-W", "-f", "${Status}", name]).stdout.toString();
    const policy = status.includes("ok installed") ? "" : run(["apt-cache", "policy", name], DIR);
    return /Candidate: \d/.test(policy) && !name.endsWith("-perl");
  });
}

function run(argv: readonly string[], cwd: string): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync([...argv], { cwd, env: { ...process.env, LC_ALL: "C" } });
  if (exitCode !== 0) throw new Error(`${argv.slice(0, 2).join(" ")}: ${stderr.toString().trim().slice(0, 300)}`);
  return stdout.toString();
}
