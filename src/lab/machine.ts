// What a lab machine has of its own: its folders, the order of its mounts, and the kernel settings of a freshly booted Debian.
import type { BootStep } from "./holder.ts";
import type { HostSpec } from "./topology.ts";

/** Folders that outlive a power cut, as they would on a disk. Keys name them below the host's own directory. */
const DISK_FOLDERS: Readonly<Record<string, string>> = {
  etc: "/etc",
  "var-lib": "/var/lib",
  "var-log": "/var/log",
  "usr-local-bin": "/usr/local/bin",
  root: "/root",
};

export const DISK_FOLDER_NAMES: readonly string[] = Object.keys(DISK_FOLDERS);

const KEPT_LOCAL_BIN = "/run/lab/bin";

export interface MachineOptions {
  readonly hostDir: string;
  /** Directories that stay visible in every host though they lie below /root or /tmp. */
  readonly visible: readonly string[];
  /** Files to show as /usr/local/bin/<name> where a hard link could not be made. */
  readonly boundPrograms: Readonly<Record<string, string>>;
  /** Folders of the machine's /etc that the hosts see as they are. */
  readonly sharedEtc: readonly string[];
  readonly hasLocalBin: boolean;
}

/** Binds first, then the file systems in memory that may cover where the bound things lie. */
export function bootSteps(host: HostSpec, options: MachineOptions): readonly BootStep[] {
  const steps: BootStep[] = [
    { do: "sysfs" },
    { do: "tmpfs", path: "/run", mode: "0755" },
    { do: "folder", path: "/run/lock" },
    { do: "folder", path: "/run/lab" },
  ];
  if (options.hasLocalBin) {
    steps.push({ do: "folder", path: KEPT_LOCAL_BIN }, { do: "bind", from: "/usr/local/bin", to: KEPT_LOCAL_BIN });
  }
  const kept = options.visible.map((path, index) => ({ path, aside: `/run/lab/visible/${index}` }));
  for (const { path, aside } of kept) steps.push({ do: "folder", path: aside }, { do: "bind", from: path, to: aside });
  for (const [name, path] of Object.entries(options.boundPrograms)) {
    steps.push({ do: "bind", from: path, to: `${options.hostDir}/usr-local-bin/${name}` });
  }
  for (const name of options.sharedEtc) {
    steps.push({ do: "bind", from: `/etc/${name}`, to: `${options.hostDir}/etc/${name}` });
  }
  for (const [name, path] of Object.entries(DISK_FOLDERS)) {
    if (name === "usr-local-bin" && !options.hasLocalBin) continue;
    steps.push({ do: "bind", from: `${options.hostDir}/${name}`, to: path });
  }
  steps.push({ do: "tmpfs", path: "/tmp", mode: "1777" });
  for (const { path, aside } of kept) steps.push({ do: "folder", path }, { do: "bind", from: aside, to: path });
  for (const [key, value] of Object.entries({ ...SYSCTLS, ...forwardingOf(host), ...host.sysctls })) {
    steps.push({ do: "sysctl", path: sysctlPath(key), value });
  }
  return steps;
}

/**
 * A new network namespace copies IPv4's settings from the machine, so every one that matters is written. Values are the kernel's,
 * and for rp_filter, source routes and promotion those that systemd sets on Debian. Only `accept_dad` differs: waiting a second
 * for duplicates of addresses that we gave out ourselves teaches nothing.
 */
const SYSCTLS: Readonly<Record<string, string>> = {
  "net.ipv4.ip_forward": "0",
  "net.ipv4.conf.all.rp_filter": "0",
  "net.ipv4.conf.default.rp_filter": "2",
  "net.ipv4.conf.lo.rp_filter": "2",
  "net.ipv4.conf.all.src_valid_mark": "0",
  "net.ipv4.conf.default.src_valid_mark": "0",
  "net.ipv4.conf.all.arp_ignore": "0",
  "net.ipv4.conf.default.arp_ignore": "0",
  "net.ipv4.conf.all.accept_source_route": "0",
  "net.ipv4.conf.default.accept_source_route": "0",
  "net.ipv4.conf.default.promote_secondaries": "1",
  "net.ipv6.conf.all.disable_ipv6": "0",
  "net.ipv6.conf.default.disable_ipv6": "0",
  "net.ipv6.conf.all.forwarding": "0",
  "net.ipv6.conf.all.accept_dad": "0",
  "net.ipv6.conf.default.accept_dad": "0",
};

function forwardingOf(host: HostSpec): Readonly<Record<string, string>> {
  return host.kind === "host" ? {} : { "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1" };
}

function sysctlPath(key: string): string {
  return `/proc/sys/${key.replaceAll(".", "/")}`;
}
