// One machine of the lab as a process that holds its namespaces: own mounts, network, names, processes; killing it is a power cut.
import { LabCommandFailed } from "./errors.ts";
import { childrenOf, LAB_ENVIRONMENT } from "./spawn.ts";

/** What the holder's first process does before the machine counts as booted; a closed set, no command lines. */
export type BootStep =
  | { readonly do: "sysctl"; readonly path: string; readonly value: string }
  | { readonly do: "tmpfs"; readonly path: string; readonly mode: string }
  | { readonly do: "sysfs" }
  | { readonly do: "folder"; readonly path: string }
  | { readonly do: "bind"; readonly from: string; readonly to: string };

export interface Holder {
  /** The machine's first process, by the lab's own pids; its namespaces are entered through it. */
  readonly pid: number;
  /** Resolves when every process of the machine is gone. */
  readonly exited: Promise<void>;
  /** A power cut: SIGKILL for everything at once, no goodbye. Resolves when it is over. */
  cut(): Promise<void>;
}

// bash, because the first process of a PID namespace has to reap orphans, which bash does on every SIGCHLD and dash does not.
// It reads its standard input, whose other end the lab's process holds: when that dies of whatever, the machine goes with it.
const FIRST_PROCESS = `set -euo pipefail
hostname "$1"
shift
while (($#)); do
  case $1 in
    sysctl) if [[ -e $2 ]]; then printf '%s' "$3" > "$2"; fi; shift 3 ;;
    tmpfs) mount -t tmpfs -o "mode=$3" tmpfs "$2"; shift 3 ;;
    sysfs) mount -t sysfs sysfs /sys; shift ;;
    folder) mkdir -p -- "$2"; shift 2 ;;
    bind) if [[ ! -d $2 && ! -e $3 ]]; then : > "$3"; fi; mount --rbind -- "$2" "$3"; shift 3 ;;
  esac
done
echo up
exec bash --norc --noprofile -c 'while read -r _; do :; done; exit 0' lab-host
`;

const UNSHARE = ["unshare", "-m", "-n", "-u", "-i", "-p", "-f", "--kill-child=KILL", "--mount-proc", "--"];

/** Resolves when the steps are done. */
export async function startHolder(name: string, steps: readonly BootStep[]): Promise<Holder> {
  const argv = [
    ...UNSHARE,
    "bash",
    "--norc",
    "--noprofile",
    "-c",
    FIRST_PROCESS,
    "lab-host",
    name,
    ...steps.flatMap(stepArguments),
  ];
  const child = Bun.spawn(argv, {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    cwd: "/",
    env: { ...LAB_ENVIRONMENT },
    detached: true, // a Ctrl-C in the terminal is for the lab's process, which then puts things away in order
  });
  const reader = child.stdout.getReader();
  const first = await reader.read();
  if (first.done || !new TextDecoder().decode(first.value).startsWith("up")) {
    const said = (await new Response(child.stderr).text()).trim();
    await child.exited;
    throw new LabCommandFailed(`Cannot start the lab host "${name}": ${said || "its first process ended"}.`, {
      code: "lab-holder-failed",
      detail: { name, steps },
    });
  }
  reader.releaseLock();
  const pid = childrenOf(child.pid)[0];
  if (pid === undefined) {
    child.kill("SIGKILL");
    throw new LabCommandFailed(`Cannot find the first process of the lab host "${name}": its holder has no child.`, {
      code: "lab-holder-failed",
    });
  }
  return {
    pid,
    exited: child.exited.then(() => undefined),
    async cut() {
      // The first process takes its whole namespace along, and the kernel waits for the last of them before it is reaped.
      if (child.exitCode === null && child.signalCode === null) killQuietly(pid);
      await child.exited;
      await child.stdin.end();
    },
  };
}

function stepArguments(step: BootStep): readonly string[] {
  switch (step.do) {
    case "sysctl":
      return ["sysctl", step.path, step.value];
    case "tmpfs":
      return ["tmpfs", step.path, step.mode];
    case "sysfs":
      return ["sysfs"];
    case "folder":
      return ["folder", step.path];
    case "bind":
      return ["bind", step.from, step.to];
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // over since the check: what was wanted
  }
}
