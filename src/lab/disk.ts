// A lab host's disk: the folders that outlive a power cut, with a Debian's /etc, the programs to try and the lab's certificates.
import {
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { LabCertificates } from "./ca.ts";
import { DISK_FOLDER_NAMES } from "./machine.ts";
import { LAB_CA_PATH, LAB_CERTIFICATE_PATH, LAB_KEY_PATH } from "./service.ts";
import type { HostSpec } from "./topology.ts";

export interface DiskOptions {
  readonly hostDir: string;
  readonly programs: Readonly<Record<string, string>>;
  readonly certificates: LabCertificates;
}

/** Returns the programs that have to be bind-mounted, as they lie on another file system. */
export function makeDisk(spec: HostSpec, options: DiskOptions): Readonly<Record<string, string>> {
  const { hostDir } = options;
  for (const folder of DISK_FOLDER_NAMES) mkdirSync(join(hostDir, folder), { recursive: true, mode: 0o755 });
  copyEtc(join(hostDir, "etc"));
  const write = (path: string, content: string, mode = 0o644): void => {
    const target = join(hostDir, path);
    mkdirSync(dirname(target), { recursive: true });
    rmSync(target, { force: true }); // it may be a link into the machine's /run
    writeFileSync(target, content, { mode });
  };
  write("/etc/resolv.conf", spec.nameservers.map((address) => `nameserver ${address}\n`).join(""));
  write("/etc/hosts", `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t${spec.name}\n`);
  write("/etc/hostname", `${spec.name}\n`);
  write("/etc/machine-id", `${new Bun.CryptoHasher("md5").update(hostDir).digest("hex")}\n`);
  write(LAB_CA_PATH, options.certificates.caPem);
  if (spec.services?.some((service) => service.kind === "dns") === true) {
    write(LAB_CERTIFICATE_PATH, options.certificates.certificatePem);
    write(LAB_KEY_PATH, options.certificates.keyPem, 0o600);
  }
  const bound: Record<string, string> = {};
  for (const [name, path] of Object.entries(options.programs)) {
    if (!installed(path, join(hostDir, "usr-local-bin", name))) bound[name] = path;
  }
  return bound;
}

/**
 * What a Debian or a Fedora needs of /etc to resolve names, link programs, check certificates, map users and manage services.
 * Not all of it: a thousand small files for each of a dozen hosts would be most of the lab's start.
 */
const ETC_ENTRIES: readonly string[] = `
  adduser.conf bash.bashrc ca-certificates.conf crypto-policies debian_version default environment ethertypes fedora-release
  gai.conf group host.conf iproute2 ld.so.cache ld.so.conf ld.so.conf.d locale.conf localtime login.defs networks nftables.conf
  nsswitch.conf os-release passwd pki profile protocols resolvconf services shells ssl sysctl.conf sysctl.d system-release
  systemd terminfo timezone ufw wireguard xtables`
  .trim()
  .split(/\s+/);

/** Hundreds of links that no host changes: shown as they are on the machine, not copied. */
export const ETC_SHARED: readonly string[] = ["alternatives"];

/**
 * Copies only what everybody may read, so that no secret of the machine gets into a lab. Owners become root, which is the only
 * user that a user namespace has.
 */
export function copyEtc(to: string): void {
  mkdirSync(to, { recursive: true });
  for (const name of ETC_SHARED) mkdirSync(join(to, name));
  for (const name of ETC_ENTRIES) {
    const from = join("/etc", name);
    if (existsSync(from)) cpSync(from, join(to, name), { recursive: true, verbatimSymlinks: true, filter: mayCopy });
  }
}

function mayCopy(path: string): boolean {
  const stat = lstatSync(path);
  // Links below ssl are an index by hash beside the one file with all certificates.
  if (stat.isSymbolicLink()) return !path.startsWith("/etc/ssl/");
  if (stat.isDirectory()) return (stat.mode & 0o005) === 0o005;
  return stat.isFile() && (stat.mode & 0o004) !== 0;
}

const SMALL_PROGRAM_BYTES = 4 << 20; // a copy for each of a dozen hosts costs nothing up to here

/** A hard link can be renamed over, as an upgrade does it; a bind mount cannot. */
function installed(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch {
    if (statSync(from).size > SMALL_PROGRAM_BYTES) return false; // other file system, or somebody else's file
    copyFileSync(from, to);
    return true;
  }
}
