// What one can do with a host of the lab: run programs in it, read and write its files, cut its power, boot it, sniff it.
import { LabCommandFailed, LabHostOff } from "./errors.ts";
import type { Holder } from "./holder.ts";
import { spawnEntered } from "./process.ts";
import type { LabProcess, SpawnOptions } from "./process.ts";
import { startSniffer } from "./sniffer.ts";
import type { Sniffer } from "./sniffer.ts";
import { runChild, runChildOrThrow } from "./spawn.ts";
import type { ExecOptions, ExecResult } from "./spawn.ts";
import type { HostSpec } from "./topology.ts";

export interface LabHost {
  readonly name: string;
  readonly spec: HostSpec;
  /** Of its first process, as the lab's own process sees it; another after each boot. Throws LabHostOff when it is off. */
  readonly pid: number;
  readonly isOn: boolean;
  /** Runs to the end as root of the host, in "/", with the lab's environment. Aborting and the timeout kill it. */
  exec(argv: readonly string[], options?: ExecOptions): Promise<ExecResult>;
  /** As `exec`, gives standard output, and throws LabCommandFailed unless the exit code is 0. */
  execOrThrow(argv: readonly string[], options?: ExecOptions): Promise<string>;
  spawn(argv: readonly string[], options?: SpawnOptions): Promise<LabProcess>;
  readFile(path: string): Promise<string>;
  /** Writes through the host's own links and mounts. */
  writeFile(path: string, content: string | Uint8Array): Promise<void>;
  /** A power cut: every process gone at once. /etc, /var/lib, /var/log, /usr/local/bin and /root stay; /run and /tmp do not. */
  powerOff(): Promise<void>;
  /** Switches a host on again that was off, on the same folders and with the same network cards. */
  boot(): Promise<void>;
  /**
   * Sees the interface's packets from the moment this resolves. `filter` in tcpdump's language, "" for all. Needs the machine's
   * root: tcpdump insists on a change of user that a user namespace forbids.
   */
  sniff(interfaceName: string, filter?: string): Promise<Sniffer>;
}

/** What a host needs of the lab that it stands in. */
export interface HostMaker {
  /** A new holder, cabled, addressed, with its rules loaded and its services running. */
  start(): Promise<Holder>;
  /** After the holder is gone. */
  unplug(): Promise<void>;
}

export function labHost(spec: HostSpec, maker: HostMaker): LabHost {
  let holder: Holder | undefined;
  const running = new Set<LabProcess>();
  const pidOf = (): number => {
    if (holder !== undefined) return holder.pid;
    throw new LabHostOff(`Cannot use the lab host "${spec.name}": it is off.`, { code: "lab-host-off" });
  };
  return {
    name: spec.name,
    spec,
    get pid() {
      return pidOf();
    },
    get isOn() {
      return holder !== undefined;
    },
    exec: (argv, options) => runChild(enterArgv(pidOf(), argv), options),
    execOrThrow: (argv, options) => runChildOrThrow(enterArgv(pidOf(), argv), options),
    async spawn(argv, options) {
      const started = await spawnEntered(enterArgv(pidOf(), argv), options);
      running.add(started);
      void started.exited.then(() => running.delete(started));
      return started;
    },
    readFile: (path) => runChildOrThrow(enterArgv(pidOf(), ["cat", "--", path])),
    async writeFile(path, content) {
      const result = await runChild(enterArgv(pidOf(), ["dd", "status=none", `of=${path}`]), { stdin: content });
      if (result.code === 0) return;
      throw new LabCommandFailed(`Cannot write "${path}" on "${spec.name}": ${result.stderr.trim()}.`, {
        code: "lab-command-failed",
      });
    },
    async powerOff() {
      const old = holder;
      holder = undefined;
      // The nsenter of a program that was stopped is stopped too: it would never see the end, and the host would never be gone.
      for (const one of running) one.kill("SIGCONT");
      await old?.cut();
      if (old !== undefined) await maker.unplug();
    },
    async boot() {
      if (holder !== undefined) return;
      holder = await maker.start();
    },
    sniff: (interfaceName, filter = "") => startSniffer((argv) => enterArgv(pidOf(), argv), { interfaceName, filter }),
  };
}

/** The program dies with its `nsenter`, so that killing the one from outside never leaves the other running inside. */
export function enterArgv(pid: number, argv: readonly string[]): readonly string[] {
  return [
    "nsenter",
    "-t",
    String(pid),
    "-m",
    "-n",
    "-u",
    "-i",
    "-p",
    "--",
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--",
    ...argv,
  ];
}

/** The host's network with the lab's own files and pids: for what the lab itself sets up. */
export function enterNetworkArgv(pid: number, argv: readonly string[]): readonly string[] {
  return ["nsenter", "-t", String(pid), "-n", "--", ...argv];
}
