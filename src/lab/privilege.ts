// Whether this machine lets us build a lab: as root, in a user namespace of our own, or not, and then what to type.
import { closeSync, constants, openSync, readFileSync } from "node:fs";
import { exitCode, LAB_ENVIRONMENT, runChild } from "./spawn.ts";

export type LabPrivilege =
  | { readonly kind: "root" }
  /** Possible after `reexecInUserNamespace`. */
  | { readonly kind: "userns" }
  | { readonly kind: "refused"; readonly why: string; readonly say: string };

/** Each with the Debian package that brings it. */
const TOOLS: Readonly<Record<string, string>> = {
  bash: "bash",
  cat: "coreutils",
  hostname: "hostname",
  ip: "iproute2",
  mount: "mount",
  nft: "nftables",
  nsenter: "util-linux",
  setpriv: "util-linux",
  sysctl: "procps",
  unshare: "util-linux",
};

const TUN_PATH = "/dev/net/tun";
// What a host of the lab does first; some systems allow the namespaces and then forbid everything inside them.
const TRIAL = ["-m", "-n", "-u", "-i", "-p", "-f", "--mount-proc", "--", "mount", "-t", "tmpfs", "tmpfs", "/run"];

/** `command` is what the user typed, for the sentence about what to type instead: "higgs demo". */
export async function labPrivilege(command: string): Promise<LabPrivilege> {
  if (process.platform !== "linux") {
    return refused("the lab is made of Linux namespaces", "Run it on a Linux machine, or in a virtual one.");
  }
  const missing = [...new Set(Object.keys(TOOLS).filter((name) => which(name) === null))];
  if (missing.length > 0) {
    const packages = [...new Set(missing.map((name) => TOOLS[name] ?? name))].toSorted();
    const install = `apt-get install --no-install-recommends ${packages.join(" ")}`;
    return refused(`${missing.join(", ")} cannot be found`, `Type: sudo ${install}`);
  }
  const isRoot = process.getuid?.() === 0;
  const trial = await runChild(["unshare", ...(isRoot ? [] : ["-U", "-r"]), ...TRIAL], { timeoutMs: 10_000 });
  if (trial.code !== 0) {
    const why = `namespaces are not allowed here (${trial.stderr.trim() || `unshare ended with ${trial.code}`})`;
    if (!isRoot) return refused(why, `Type: sudo ${command}`);
    return refused(why, "In a container, start it with --privileged; or use a virtual machine.");
  }
  if (!canOpenTun()) {
    if (!isRoot) return refused(`${TUN_PATH} may be opened by root alone`, `Type: sudo ${command}`);
    if (isUserNamespace())
      return refused(`${TUN_PATH} cannot be opened in this user namespace`, `Type: sudo ${command}`);
    return refused(
      `${TUN_PATH} cannot be opened`,
      "Type: modprobe tun (in a container, start it with --device /dev/net/tun)",
    );
  }
  return { kind: isRoot ? "root" : "userns" };
}

/** Runs the command as root of a new user namespace, with our terminal and environment. Gives its exit code. */
export async function reexecInUserNamespace(argv: readonly string[]): Promise<number> {
  const child = Bun.spawn(["unshare", "-U", "-r", "--", "setpriv", "--pdeathsig", "KILL", "--", ...argv], {
    stdio: ["inherit", "inherit", "inherit"],
    env: process.env,
  });
  // A Ctrl-C reaches the child by itself, as it shares our terminal; we only have to outlive it.
  const stay = (): void => undefined;
  const handOn = (): void => child.kill("SIGTERM");
  process.on("SIGINT", stay);
  process.on("SIGTERM", handOn);
  try {
    await child.exited;
    return exitCode(child);
  } finally {
    process.off("SIGINT", stay);
    process.off("SIGTERM", handOn);
  }
}

/** True unless every user of the machine exists here, which is so for its own root alone. */
function isUserNamespace(): boolean {
  return !/^\s*0\s+0\s+4294967295\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));
}

function refused(why: string, say: string): LabPrivilege {
  return { kind: "refused", why, say };
}

/** An ordinary user's PATH often lacks /usr/sbin, which the lab's has. */
function which(name: string): string | null {
  return Bun.which(name, { PATH: LAB_ENVIRONMENT["PATH"] ?? "" });
}

function canOpenTun(): boolean {
  try {
    closeSync(openSync(TUN_PATH, constants.O_RDWR));
    return true;
  } catch {
    return false;
  }
}
