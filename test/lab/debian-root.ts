// Small Debians in folders, unpacked from the distribution's own packages and kept in build/; nothing is installed here.
import { createHash } from "node:crypto";
import { mkdir, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { LabRefused } from "../../src/lab/errors.ts";
import { runChild, runChildOrThrow } from "../../src/lab/spawn.ts";
import { ROOT_DIR } from "./bundle.ts";
import { madeOnce } from "./made-once.ts";

/** One Debian: apt finds what its packages need. */
export interface DebianPackages {
  /** Its folder's. */
  readonly name: string;
  readonly packages: readonly string[];
}

/** What higgs needs, where it carries no wireguard-go too, and the services that it works with. */
const SYSTEMD: DebianPackages = {
  name: "systemd",
  packages: words(`
  systemd systemd-sysv systemd-resolved libnss-resolve dbus polkitd iproute2 nftables iptables wireguard-tools iputils-ping conntrack
  network-manager dnsmasq-base wireguard-go procps bash coreutils util-linux passwd login libc-bin grep sed findutils hostname mount dash curl`),
};

/** What a network hands out addresses with, and what machines take them by; and a host firewall of others. */
export const NETWORK_SETUP: DebianPackages = {
  name: "network-setup",
  packages: words(`
  dnsmasq-base radvd isc-dhcp-client dhcpcd-base udhcpc busybox rdnssd ufw iptables
  iproute2 procps bash coreutils util-linux passwd login libc-bin grep sed findutils hostname dash debianutils systemd`),
};

/** A host firewall that is a service of its own, asked over D-Bus. */
export const FIREWALLD: DebianPackages = {
  name: "firewalld",
  packages: words(`
  systemd systemd-sysv dbus firewalld netbase nftables iproute2 procps bash coreutils util-linux passwd login libc-bin grep sed findutils
  hostname mount dash`),
};

const NSSWITCH = `passwd: files
group: files
shadow: files
hosts: files resolve [!UNAVAIL=return] dns
networks: files
`;

/** Programs that cannot be in one Debian with each other or with systemd-resolved: each is laid over the root by itself. */
export type DebianLayer = "resolvconf" | "openresolv" | "isc-dhcp-client";

/** To be changed with what is done to the unpacked packages. */
const VERSION = 3;
const DOWNLOAD_MS = 300_000;
const UNPACK_MS = 120_000;

/**
 * The folder, made at the first call. Nobody may write to it: a machine lays its own changes over it.
 * Throws LabRefused with apt's words where the packages are not to be had.
 */
export function debianRoot(wanted: DebianPackages = SYSTEMD): Promise<string> {
  const making = roots.get(wanted.name) ?? madeRoot(wanted);
  roots.set(wanted.name, making);
  return making;
}

/** Several hosts of a lab ask at once. */
const roots = new Map<string, Promise<string>>();

async function madeRoot({ name, packages }: DebianPackages): Promise<string> {
  const key = createHash("sha256")
    .update(JSON.stringify([VERSION, packages, NSSWITCH]))
    .digest("hex")
    .slice(0, 12);
  const cacheDir = join(ROOT_DIR, "build/debian-root", name);
  const rootDir = join(cacheDir, key);
  await madeOnce(rootDir, async (workDir) => {
    for (const other of await readdir(cacheDir)) {
      if (other !== basename(workDir)) await rm(join(cacheDir, other), { recursive: true, force: true }); // of other packages
    }
    const making = join(workDir, "root");
    await unpack(await download(packages, workDir), making);
    await makeReady(making);
    return making;
  });
  return rootDir;
}

/** The package alone, unpacked into a folder of its own; what it needs is in the root. As `debianRoot`. */
export async function debianLayer(name: DebianLayer): Promise<string> {
  const layerDir = join(ROOT_DIR, "build/debian-layers", name);
  await madeOnce(layerDir, async (workDir) => {
    const { code, stdout, stderr } = await runChild(
      ["sh", "-c", 'cd "$1" && exec apt-get -q -o APT::Sandbox::User=root download "$2"', "download", workDir, name],
      { timeoutMs: DOWNLOAD_MS, env: proxies() },
    );
    if (code !== 0) throw notFetched(name, `${stdout}\n${stderr}`);
    const archives = (await readdir(workDir)).filter((file) => file.endsWith(".deb"));
    const making = join(workDir, "layer");
    await unpack(
      archives.map((file) => join(workDir, file)),
      making,
    );
    return making;
  });
  return layerDir;
}

/** With nothing installed as far as apt knows, it brings everything that the packages need. */
async function download(packages: readonly string[], workDir: string): Promise<readonly string[]> {
  const archivesDir = join(workDir, "archives");
  await mkdir(join(archivesDir, "partial"), { recursive: true });
  const statusPath = join(workDir, "status");
  await writeFile(statusPath, "");
  const options = [
    `Dir::State::status=${statusPath}`,
    `Dir::Cache::archives=${archivesDir}`,
    "Debug::NoLocking=true", // the machine's own packages are not touched
    "APT::Sandbox::User=root",
    "APT::Install-Recommends=false",
  ].flatMap((option) => ["-o", option]);
  const argv = ["apt-get", "-q", "-y", ...options, "--download-only", "install", ...packages];
  const { code, stdout, stderr } = await runChild(argv, { timeoutMs: DOWNLOAD_MS, env: proxies() });
  if (code !== 0) throw notFetched("a Debian", `${stdout}\n${stderr}`);
  const names = (await readdir(archivesDir)).filter((name) => name.endsWith(".deb"));
  return names.map((name) => join(archivesDir, name));
}

function notFetched(what: string, said: string): LabRefused {
  const words = said.trim().split("\n").slice(-5).join(" | ");
  return new LabRefused(`Cannot fetch the packages of ${what}: ${words}`, {
    code: "lab-refused",
    remedy: "apt-get update",
  });
}

/** Children of the lab inherit nothing; how the network is reached is the caller's to know. */
function proxies(): Record<string, string> {
  const names = ["http_proxy", "https_proxy", "no_proxy"];
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}

/** Without the packages' own scripts: they would want to change a machine that runs. */
async function unpack(archives: readonly string[], rootDir: string): Promise<void> {
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    await mkdir(join(rootDir, "usr", name), { recursive: true });
    await symlink(`usr/${name}`, join(rootDir, name));
  }
  const script =
    'set -eu; for deb do dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$ROOT"; done';
  await runChildOrThrow(["sh", "-c", script, "unpack", ...archives], { timeoutMs: UNPACK_MS, env: { ROOT: rootDir } });
}

/** What the packages' scripts would have made, as far as a machine without people needs it. */
async function makeReady(rootDir: string): Promise<void> {
  await runChildOrThrow(["chroot", rootDir, "ldconfig"]);
  await runChildOrThrow(["chroot", rootDir, "systemd-sysusers"]);
  await writeFile(join(rootDir, "etc/nsswitch.conf"), NSSWITCH);
  await writeFile(join(rootDir, "etc/machine-id"), "");
  await rm(join(rootDir, "var/run"), { recursive: true, force: true }); // some package brings it as a folder
  await symlink("/run", join(rootDir, "var/run"));
}

function words(text: string): readonly string[] {
  return text.trim().split(/\s+/);
}
