// A lab host that boots a real systemd: in process, mount and cgroup namespaces of its own, on the host's network.
import type { LabHost } from "../../src/lab/host.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { type ExecOptions, type ExecResult, runChild } from "../../src/lab/spawn.ts";
import { LAB_CA_PATH } from "../../src/lab/service.ts";
import { type DebianPackages, debianRoot } from "./debian-root.ts";
import { until } from "./harness.ts";

export interface SystemdMachine extends AsyncDisposable {
  readonly host: LabHost;
  /** As root of the machine. */
  exec(argv: readonly string[], options?: ExecOptions): Promise<ExecResult>;
  /** As `exec`; throws LabCommandFailed unless the exit code is 0. */
  execOrThrow(argv: readonly string[], options?: ExecOptions): Promise<string>;
  spawn(argv: readonly string[]): Promise<LabProcess>;
  readFile(path: string): Promise<string>;
  writeFile(path: string, content: string): Promise<void>;
  /** Every process of systemd's gone at once; the network stays as it is. */
  cut(): Promise<void>;
  /** Boots again on the same disk. */
  boot(): Promise<void>;
}

export interface SystemdOptions {
  /** `resolved`: /etc/resolv.conf leads to systemd-resolved's stub, and it runs from the boot on. Default: a plain file, no resolved. */
  readonly resolved?: boolean;
  /** Which Debian it is; default: that with all that higgs needs. */
  readonly debian?: DebianPackages;
  /** Laid over the root, the first on top. */
  readonly layers?: readonly string[];
  /** NetworkManager runs from the boot on, with these files below /etc/NetworkManager, which are root's alone. */
  readonly networkManager?: Readonly<Record<string, string>>;
}

/** On the host's own disk, so that it outlives a power cut as one. */
const DISK_DIR = "/var/lib/systemd-machine";
const WORK_DIR = "/run/systemd-machine";
const BOOT_MS = 60_000;

/** Cgroups of version 2 without any limits where the machine gives its controllers to version 1; systemd only needs the tree. */
const FIRST = `set -eu
root=$1 cgroup=$2
mkdir -p ${WORK_DIR}/cgroup ${WORK_DIR}/root ${DISK_DIR}/upper ${DISK_DIR}/work
mount -t cgroup2 none ${WORK_DIR}/cgroup
mkdir -p "${WORK_DIR}/cgroup/$cgroup"
echo 0 > "${WORK_DIR}/cgroup/$cgroup/cgroup.procs"
umount ${WORK_DIR}/cgroup
exec unshare --mount --pid --cgroup --fork --kill-child=KILL -- bash --norc --noprofile -c "$3" systemd "$root"
`;

/** Not chroot: systemd makes mount namespaces for its services, and those want a real root. */
const SECOND = `set -eu
read -r pid _ < /proc/self/stat
cd ${WORK_DIR}/root
mount -t overlay -o "lowerdir=$1,upperdir=${DISK_DIR}/upper,workdir=${DISK_DIR}/work" overlay .
cd ${WORK_DIR}/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for node in null zero full random urandom tty; do
  : > dev/$node
  mount --bind /dev/$node dev/$node
done
mknod -m 666 dev/net/tun c 10 200 # as udev makes it: for everybody
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for program in /usr/local/bin/*; do
  : > "usr/local/bin/\${program##*/}"
  mount --bind "$program" "usr/local/bin/\${program##*/}"
done
mkdir run/outside
pivot_root . run/outside
umount -l /run/outside
rmdir /run/outside
echo "init $pid"
exec env -i container=higgs-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system systemd.unit=multi-user.target
`;

/** Units that wait for hardware, consoles and people. */
const MASKED = ["getty.target", "console-getty.service", "systemd-logind.service", "systemd-timesyncd.service"];

let booted = 0;

/** Resolves when systemd says that it is up. The host's programs are at /usr/local/bin. */
export async function bootSystemd(host: LabHost, options: SystemdOptions = {}): Promise<SystemdMachine> {
  const rootDirs = [...(options.layers ?? []), await debianRoot(options.debian)].join(":");
  const cgroup = `higgs-lab-${process.pid}-${++booted}-${crypto.randomUUID().slice(0, 8)}`; // pids are a namespace's own
  await prepareDisk(host, options);
  let first: LabProcess | null = null;
  let init = "";
  const enter = (argv: readonly string[]): readonly string[] => [
    ...["nsenter", "-t", init, "-m", "-p", "-n", "-u", "-i", "-C", "--", "setpriv", "--pdeathsig", "KILL", "--"],
    ...argv,
  ];
  async function boot(): Promise<void> {
    first = await host.spawn(["bash", "--norc", "--noprofile", "-c", FIRST, "first", rootDirs, cgroup, SECOND]);
    init = (await first.waitForLine(/^init \d+$/)).slice("init ".length);
    const isUp = async (): Promise<boolean> => {
      const { stdout } = await host.exec(enter(["systemctl", "is-system-running"]));
      return /^(running|degraded)$/m.test(stdout);
    };
    await until(isUp, { timeoutMs: BOOT_MS, everyMs: 50, what: "a booted systemd" });
  }
  async function cut(): Promise<void> {
    await first?.[Symbol.asyncDispose]();
    first = null;
    await removeCgroup(cgroup);
  }
  await boot();
  const execOrThrow = async (argv: readonly string[], how?: ExecOptions): Promise<string> =>
    await host.execOrThrow(enter(argv), how);
  return {
    host,
    exec: (argv, how) => host.exec(enter(argv), how),
    execOrThrow,
    spawn: (argv) => host.spawn(enter(argv)),
    readFile: (path) => execOrThrow(["cat", "--", path]),
    async writeFile(path, content) {
      await execOrThrow(["dd", "status=none", `of=${path}`], { stdin: content });
    },
    cut,
    boot,
    [Symbol.asyncDispose]: cut,
  };
}

/** Without udev, interfaces are there at once: NetworkManager takes it so where /sys is read-only, as in a container. */
const WITH_NETWORK_MANAGER = `
mkdir -p etc/systemd/system/NetworkManager.service.d
ln -sf /lib/systemd/system/NetworkManager.service etc/systemd/system/multi-user.target.wants/
printf '[Service]\\nReadOnlyPaths=/sys\\n' > etc/systemd/system/NetworkManager.service.d/lab.conf`;

/** What a person who set this machine up would have decided. */
async function prepareDisk(host: LabHost, options: SystemdOptions): Promise<void> {
  const stub = "../run/systemd/resolve/stub-resolv.conf";
  const wants = "etc/systemd/system/multi-user.target.wants";
  const script = [
    "set -eu",
    `mkdir -p ${DISK_DIR}/upper/usr/local/bin ${DISK_DIR}/upper/${wants} ${DISK_DIR}/upper${LAB_CA_PATH.replace(/\/[^/]*$/, "")}`,
    `cd ${DISK_DIR}/upper`,
    "cp /etc/hostname /etc/hosts /etc/machine-id etc/",
    `cp ${LAB_CA_PATH} .${LAB_CA_PATH}`,
    ...MASKED.map((unit) => `ln -sf /dev/null etc/systemd/system/${unit}`),
    options.resolved === true
      ? `ln -sf ${stub} etc/resolv.conf
         ln -sf /lib/systemd/system/systemd-resolved.service ${wants}/
         ln -sf /lib/systemd/system/systemd-resolved.service etc/systemd/system/dbus-org.freedesktop.resolve1.service`
      : "cp /etc/resolv.conf etc/",
    ...(options.networkManager === undefined ? [] : [WITH_NETWORK_MANAGER]),
  ];
  await host.execOrThrow(["sh", "-c", script.join("\n")]);
  for (const [name, content] of Object.entries(options.networkManager ?? {})) {
    const path = `${DISK_DIR}/upper/etc/NetworkManager/${name}`;
    await host.execOrThrow(["sh", "-c", 'umask 077; mkdir -p "${1%/*}"; cat > "$1"', "write", path], {
      stdin: content,
    });
  }
}

/** Empty once its processes are gone, and nobody else's. */
async function removeCgroup(name: string): Promise<void> {
  const script = `mount -t cgroup2 none /mnt && if [ -d "/mnt/$1" ]; then find "/mnt/$1" -depth -type d -exec rmdir {} +; fi`;
  const argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sweep", name];
  await until(async () => (await runChild(argv)).code === 0, { what: `the end of the cgroup ${name}` });
}
