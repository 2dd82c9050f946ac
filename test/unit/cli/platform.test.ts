// The program where it was never tried: it says so before it touches anything, an invite included.
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PROJECT_DIR = join(import.meta.dir, "../../..");
const REFUSED = 7;
const MISSING = 9;
/** Each starts the program from its sources, on a machine that may be busy. */
const TIMEOUT_MS = 30_000;

async function on(platform: "macos" | "windows", ...args: readonly string[]) {
  const dir = mkdtempSync(join(tmpdir(), "higgs-untried-cli-"));
  const state = join(dir, "state");
  const run = join(dir, "run");
  const argv = [
    "--preload",
    join(import.meta.dir, `as-${platform}.program.ts`),
    join(PROJECT_DIR, "src/cli/main.ts"),
    ...args,
  ];
  const child = Bun.spawn([process.execPath, ...argv], {
    cwd: PROJECT_DIR,
    env: { PATH: process.env["PATH"] ?? "", HIGGS_STATE: state, HIGGS_RUN: run },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [err, code] = await Promise.all([child.stderr.text(), child.exited, child.stdout.text()]);
  const isTouched = existsSync(state) || existsSync(run);
  rmSync(dir, { recursive: true });
  return { code, err, isTouched };
}

for (const platform of ["macos", "windows"] as const) {
  const name = { macos: "macOS", windows: "Windows" }[platform];
  for (const command of ["client up", "client run", "client lockdown on", "client up --join higgs://vps.example/#x"]) {
    test(
      `higgs ${command} on ${name} asks whether it is meant, and touches nothing`,
      async () => {
        const { code, err, isTouched } = await on(platform, ...command.split(" "));
        expect(err).toContain(`on ${name}: it was written from the manuals, and has never run on a real one`);
        expect(err).toContain("--untested-platform");
        expect({ code, isTouched }).toEqual({ code: REFUSED, isTouched: false });
      },
      TIMEOUT_MS,
    );
  }
}

test(
  "higgs node on Windows offers no exit, says why before its invite is used, and without one asks whether it is meant",
  async () => {
    for (const flags of [[], ["--untested-platform"], ["--join", "higgs://vps.example/#x"]]) {
      const { code, err, isTouched } = await on("windows", "node", ...flags);
      expect(err).toContain("does not see the packets that it passes on");
      expect(err).toContain("higgs node --no-exit");
      expect({ code, isTouched }).toEqual({ code: MISSING, isTouched: false });
    }
    const { code, err } = await on("windows", "node", "--no-exit");
    expect(err).toContain("has never run on a real one");
    expect(code).toBe(REFUSED);
  },
  TIMEOUT_MS,
);

test(
  "higgs node on macOS is refused with the reason, asked for or not",
  async () => {
    for (const flags of [[], ["--untested-platform"]]) {
      const { code, err, isTouched } = await on("macos", "node", ...flags);
      expect(err).toContain("could not be made to close by itself");
      expect({ code, isTouched }).toEqual({ code: MISSING, isTouched: false });
    }
  },
  TIMEOUT_MS,
);
