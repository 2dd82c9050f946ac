// With HIGGS_LAB_USER=1 every node and client of a lab runs as the services' own user, with what their units give them and no more.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { HELPER_SOCKET_PATH } from "../../src/net/dns/resolv-conf-helper.ts";
import { HELPER_CAPABILITIES, SERVICE_USER, serviceLimits } from "../../src/net/systemd/units.ts";
import { carriedName, LIBEXEC_DIR } from "../../src/net/wg/carried.ts";
import { bundleForHosts } from "./bundle.ts";

type MachineRole = "node" | "client";

/** As in the machine's passwd(5) after `install`. */
const UID = 54_321;
const PROGRAM_DIR = "/usr/local/bin";
const LISTENER = "resolv-conf-listener.js";
/** On a host's own /run: the machine's /dev/net/tun may be root's alone, and udev makes it everybody's. */
const TUN = "/run/lab/tun";

export function daemonsHaveUser(): boolean {
  return process.env["HIGGS_LAB_USER"] === "1";
}

/** The daemon that a command is or starts; null for what people type as root beside a service. */
export function daemonRole(argv: readonly string[]): MachineRole | null {
  const [program = "", role, verb] = argv;
  if (basename(program) !== "higgs" || (role !== "node" && role !== "client")) return null;
  const starts = verb === undefined || verb.startsWith("-") || verb === "run" || (role === "client" && verb === "up");
  return starts ? role : null;
}

/** The same command as the service manager would start it; as it is where daemons are root's, or it is none. */
export function asService(
  argv: readonly string[],
  options: { readonly diesWithParent?: boolean } = {},
): readonly string[] {
  const role = daemonsHaveUser() ? daemonRole(argv) : null;
  if (role === null) return argv;
  const { user, umask, capabilities, ...dirs } = serviceLimits(role);
  const some = `-all,${capabilities.map((name) => `+${capability(name)}`).join(",")}`;
  const own = (path: string, mode: string): string =>
    `mkdir -p ${path}; [ "$(stat -c %U ${path})" = ${user} ] || chown -R ${user}: ${path}; chmod ${mode} ${path}`;
  const prepare = [
    "set -eu",
    "umask 0022",
    own(`/var/lib/${dirs.stateDir}`, dirs.stateDirMode),
    ...dirs.runDirs.map((dir) => own(`/run/${dir}`, dirs.runDirMode)),
    INSTALL_CARRIED,
    `umask ${umask}`,
    'exec setpriv "$@"',
  ];
  return [
    ...["sh", "-c", prepare.join("\n"), "service"],
    ...["--reuid", user, "--regid", user, "--init-groups", "--inh-caps", some, "--ambient-caps", some],
    ...["--bounding-set", some, "--securebits", "+noroot,+noroot_locked", "--no-new-privs"],
    ...(options.diesWithParent === true ? ["--pdeathsig", "KILL"] : []),
    "--",
    ...argv,
  ];
}

/** As the install step does, where one was carried. */
const INSTALL_CARRIED = `for one in ${PROGRAM_DIR}/wireguard-go-*; do
  if [ -e "$one" ] && [ ! -e "${LIBEXEC_DIR}/\${one##*/}" ]; then install -D -m 755 "$one" "${LIBEXEC_DIR}/\${one##*/}"; fi
done`;

/** setpriv(1) names them as capabilities(7) does, in small letters and without the prefix. */
function capability(name: string): string {
  return name.replace(/^CAP_/, "").toLowerCase();
}

/** What the hosts need at /usr/local/bin beside the binary. `use` has them while it runs. */
export async function withServicePrograms<T>(
  use: (programs: Readonly<Record<string, string>>) => Promise<T>,
): Promise<T> {
  if (!daemonsHaveUser()) return await use({});
  const dir = mkdtempSync(join(tmpdir(), "higgs-lab-user-"));
  try {
    const listenerPath = join(dir, LISTENER);
    const source = JSON.stringify(join(import.meta.dir, "resolv-conf-listener.program.ts"));
    await Bun.write(listenerPath, await bundleForHosts("resolv-conf-listener-entry.ts", `await import(${source});\n`));
    const programs: Record<string, string> = { bun: process.execPath, [LISTENER]: listenerPath };
    const { carried } = await import("higgs:carried-wireguard-go");
    if (carried !== null) {
      const name = carriedName(carried);
      programs[name] = join(dir, name);
      await Bun.write(programs[name], Bun.gunzipSync(await Bun.file(carried.gzPath).bytes()));
    }
    return await use(programs);
  } finally {
    rmSync(dir, { recursive: true }); // the hosts have them on their disks
  }
}

/** A lab whose hosts start daemons as services; as it is where daemons are root's. */
export async function withServiceUsers(lab: Lab): Promise<Lab> {
  if (!daemonsHaveUser()) return lab;
  const machines = lab.hosts.filter(isMachine);
  for (const host of machines) await addUser(host);
  await Promise.all(machines.map(bootServices));
  const hosts = new Map(lab.hosts.map((host) => [host.name, isMachine(host) ? serviceHost(host) : host]));
  return {
    topology: lab.topology,
    dir: lab.dir,
    events: lab.events,
    hosts: [...hosts.values()],
    host: (name) => hosts.get(name) ?? lab.host(name),
    [Symbol.asyncDispose]: () => lab[Symbol.asyncDispose](),
  };
}

/** Where a node or a client could live; the internet's own hosts have services. */
function isMachine({ spec }: LabHost): boolean {
  return spec.kind === "host" && (spec.services ?? []).length === 0;
}

function serviceHost(host: LabHost): LabHost {
  return {
    name: host.name,
    spec: host.spec,
    get pid() {
      return host.pid;
    },
    get isOn() {
      return host.isOn;
    },
    exec: (argv, options) => host.exec(asService(argv), options),
    execOrThrow: (argv, options) => host.execOrThrow(asService(argv), options),
    spawn: (argv, options) => host.spawn(asService(argv, { diesWithParent: true }), options),
    readFile: (path) => host.readFile(path),
    writeFile: (path, content) => host.writeFile(path, content),
    powerOff: () => host.powerOff(),
    async boot() {
      const wasOn = host.isOn;
      await host.boot();
      if (!wasOn) await bootServices(host);
    },
    sniff: (interfaceName, filter) => host.sniff(interfaceName, filter),
  };
}

async function addUser(host: LabHost): Promise<void> {
  const entry = `${SERVICE_USER}:x:${UID}:${UID}:higgs service:/var/lib/higgs:/usr/sbin/nologin`;
  const add = (file: string, line: string): string =>
    `grep -q '^${SERVICE_USER}:' ${file} || echo '${line}' >> ${file}`;
  await host.execOrThrow([
    "sh",
    "-c",
    `${add("/etc/group", `${SERVICE_USER}:x:${UID}:`)}; ${add("/etc/passwd", entry)}`,
  ]);
}

/** What the boot makes of the installed units: the tunnel's device for all, and the helper's socket. */
async function bootServices(host: LabHost): Promise<void> {
  const some = `-all,${HELPER_CAPABILITIES.map((name) => `+${capability(name)}`).join(",")}`;
  const script = [
    "set -eu",
    `mknod -m 666 ${TUN} c 10 200`,
    `mount --bind ${TUN} /dev/net/tun`,
    "mkdir -p -m 755 /run/higgs /var/lib/higgs",
  ];
  await host.execOrThrow(["sh", "-c", script.join("\n")]);
  const helper = [
    "setpriv",
    "--bounding-set",
    some,
    "--no-new-privs",
    "--",
    `${PROGRAM_DIR}/higgs`,
    "resolv-conf-helper",
  ];
  const listener = [`${PROGRAM_DIR}/bun`, `${PROGRAM_DIR}/${LISTENER}`, HELPER_SOCKET_PATH, ...helper];
  const running = await host.spawn(listener);
  await running.waitForLine(/^listening$/);
  await host.execOrThrow(["chown", `${SERVICE_USER}:`, HELPER_SOCKET_PATH]);
}
