// The lab's folder on disk: made for one process, gone when that process is gone, whatever it died of.
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LAB_ENVIRONMENT } from "./spawn.ts";

export interface WorkDir extends AsyncDisposable {
  readonly dir: string;
}

const PREFIX = "higgs-lab-";
let made = 0;

/**
 * Besides the folder there is a caretaker, a child that removes it as soon as this process is gone, even by SIGKILL. Folders whose
 * caretaker was killed as well are swept here; their names tell the process that they were for.
 */
export function makeWorkDir(parent: string = tmpdir()): WorkDir {
  sweep(parent);
  made += 1;
  const dir = join(parent, `${PREFIX}${process.pid}-${startTimeOf(process.pid) ?? 0}-${made}`);
  mkdirSync(dir, { mode: 0o700 });
  const caretaker = Bun.spawn(
    ["bash", "--norc", "--noprofile", "-c", 'read -r _; rm -rf -- "$1"', "lab-caretaker", dir],
    {
      stdin: "pipe",
      stdout: "ignore",
      stderr: "ignore",
      cwd: "/",
      env: { ...LAB_ENVIRONMENT },
      detached: true,
    },
  );
  return {
    dir,
    async [Symbol.asyncDispose]() {
      await caretaker.stdin.end();
      await caretaker.exited;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function sweep(parent: string): void {
  for (const name of readdirSync(parent)) {
    const match = /^higgs-lab-(\d+)-(\d+)-\d+$/.exec(name);
    if (match === null) continue;
    const path = join(parent, name);
    if (startTimeOf(Number(match[1])) === Number(match[2])) continue;
    if (!existsSync(path) || lstatSync(path).uid !== process.getuid?.()) continue;
    rmSync(path, { recursive: true, force: true });
  }
}

/** In clock ticks since boot, which with the pid names a process for good; null when there is no such process. */
function startTimeOf(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]);
  } catch {
    return null;
  }
}
