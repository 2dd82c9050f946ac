// Laptops in a café whose resolv.conf somebody manages: the real programs, how each is made to write anew, and what it then remembers.
import type { Lab } from "../../src/lab/lab.ts";
import { cafeHost, smallInternet } from "../../src/lab/small-internet.ts";
import { debianLayer, debianRoot } from "./debian-root.ts";
import { until } from "./harness.ts";
import { startNetworkLab } from "./network.ts";
import { bootSystemd, type SystemdMachine } from "./systemd-machine.ts";

export const CAFE_RESOLVER = "192.168.7.1";
/** Nobody is there; a lease may name it all the same. */
export const OTHER_RESOLVER = "192.168.7.9";

const ADDRESSES = { networkManager: 2, debian: 3, openresolv: 4, dhclient: 5 } as const;
export type MachineName = keyof typeof ADDRESSES;
const HOSTS: Readonly<Record<MachineName, string>> = {
  networkManager: "laptop",
  debian: "debian",
  openresolv: "openresolv",
  dhclient: "dhclient",
};
const LAYERS = { debian: "resolvconf", openresolv: "openresolv", dhclient: "isc-dhcp-client" } as const;

export function addressOf(name: MachineName): string {
  return `192.168.7.${ADDRESSES[name]}`;
}

export type Machines = Readonly<Record<MachineName, SystemdMachine>>;

export async function startManagersLab(programs: readonly string[]): Promise<Lab> {
  const layers = await Promise.all(Object.values(LAYERS).map(debianLayer));
  const extraHosts = (["debian", "openresolv", "dhclient"] as const).map((name) =>
    cafeHost(HOSTS[name], ADDRESSES[name]),
  );
  const visible = [await debianRoot(), ...layers];
  return await startNetworkLab(smallInternet({ extraHosts }), { visible, programs });
}

export async function bootManagers(lab: Lab): Promise<Machines> {
  const boot = async (name: keyof typeof LAYERS): Promise<SystemdMachine> =>
    await bootSystemd(lab.host(HOSTS[name]), { layers: [await debianLayer(LAYERS[name])] });
  const [networkManager, debian, openresolv, dhclient] = await Promise.all([
    bootSystemd(lab.host(HOSTS.networkManager), { networkManager: NM_FILES, resolved: true }),
    boot("debian"),
    boot("openresolv"),
    boot("dhclient"),
  ]);
  return { networkManager, debian, openresolv, dhclient };
}

const NM_FILES = {
  "NetworkManager.conf": nmConf("default"),
  "system-connections/cafe.nmconnection": `[connection]
id=cafe
type=ethernet
interface-name=eth0
[ipv4]
method=manual
address1=192.168.7.${ADDRESSES.networkManager}/24,${CAFE_RESOLVER}
dns=${CAFE_RESOLVER};
[ipv6]
method=manual
address1=2001:db8:66:1::${ADDRESSES.networkManager}/64,2001:db8:66:1::1
`,
};

/** Without resolvconf, as most machines are: systemd's own program of that name would be taken for one. */
function nmConf(dns: string): string {
  return `[main]\nplugins=keyfile\ndns=${dns}\nrc-manager=symlink\n`;
}

export interface Manager {
  readonly name: string;
  readonly machine: MachineName;
  /** Makes the machine's names this manager's, from whatever they were. */
  readonly begin: string;
  /** As at the renewal of a lease: the network names this server now. */
  readonly renew: (server: string) => string;
  /** What it remembers by itself. */
  readonly memory: string;
  /** Steps of setting and putting back at which a process can be killed, as many as were seen. */
  readonly leastKills: number;
}

const NM_MEMORY = `for p in Mode RcManager Configuration; do
  busctl get-property org.freedesktop.NetworkManager /org/freedesktop/NetworkManager/DnsManager org.freedesktop.NetworkManager.DnsManager $p
done; cat /run/NetworkManager/resolv.conf; ls /var/lib/NetworkManager/NetworkManager-intern.conf 2>&1; resolvectl dns eth0 2>/dev/null || :`;
const nmRenew = (server: string): string =>
  `nmcli connection modify cafe ipv4.dns ${server} && nmcli device reapply eth0`;
const networkManager = (dns: string, file: string): Omit<Manager, "name"> => ({
  machine: "networkManager",
  // Masked, as NetworkManager would have D-Bus start it.
  begin: `systemctl ${dns === "systemd-resolved" ? "unmask" : "mask --now"} --runtime systemd-resolved
    ${dns === "systemd-resolved" ? "systemctl start systemd-resolved" : ":"}
    ${file}
    printf '${nmConf(dns).replaceAll("\n", "\\n")}' > /etc/NetworkManager/NetworkManager.conf
    systemctl restart NetworkManager && nm-online -q -t 30
    ${nmRenew(CAFE_RESOLVER)}`,
  renew: nmRenew,
  memory: NM_MEMORY,
  leastKills: dns === "systemd-resolved" ? 26 : 12,
});

/** Files only: openresolv leaves a folder empty once a record was exclusive. */
const RECORDS =
  "resolvconf -l; cd /run/resolvconf && find . -type f -not -name '*lock*' -not -name postponed-update | sort";
const resolvconf = (machine: "debian" | "openresolv", begin: string): Omit<Manager, "name"> => ({
  machine,
  begin: `${begin}\nprintf 'domain lan\\nnameserver ${CAFE_RESOLVER}\\n' | resolvconf -a eth0.dhclient`,
  renew: (server) => `printf 'domain lan\\nnameserver ${server}\\n' | resolvconf -a eth0.dhclient`,
  memory: RECORDS,
  leastKills: machine === "debian" ? 22 : 18,
});

const FILE = `rm -f /etc/resolv.conf; echo 'nameserver ${CAFE_RESOLVER}' > /etc/resolv.conf`;

export const MANAGERS: readonly Manager[] = [
  { name: "NetworkManager that writes the file", ...networkManager("default", "rm -f /etc/resolv.conf") },
  {
    name: "NetworkManager behind a link",
    ...networkManager("default", "ln -sf ../run/NetworkManager/resolv.conf /etc/resolv.conf"),
  },
  { name: "NetworkManager with dns=dnsmasq", ...networkManager("dnsmasq", "rm -f /etc/resolv.conf") },
  { name: "NetworkManager with dns=none", ...networkManager("none", FILE) },
  {
    name: "NetworkManager with dns=systemd-resolved",
    ...networkManager("systemd-resolved", "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"),
  },
  {
    name: "Debian's resolvconf",
    ...resolvconf(
      "debian",
      "mkdir -p /run/resolvconf/interface; resolvconf --enable-updates; ln -sf ../run/resolvconf/resolv.conf /etc/resolv.conf",
    ),
  },
  { name: "openresolv", ...resolvconf("openresolv", "resolvconf -f -d eth0.dhclient; rm -f /etc/resolv.conf*") },
  {
    name: "dhclient",
    machine: "dhclient",
    begin: `${FILE}; touch /etc/fstab; ip -4 addr flush dev eth0; ${dhclient()}`,
    renew: dhclient,
    leastKills: 12,
    memory: "grep -h name-servers /var/lib/dhcp/dhclient.leases | tail -1",
  },
];

/** Asks anew by broadcast, and its script writes what the answer says. */
function dhclient(): string {
  return "pkill -x dhclient; rm -f /run/dhclient.pid; dhclient -4 -1 -v eth0";
}

/** The café's DHCP server, which names this server to the laptop with dhclient. */
export async function startDhcp(lab: Lab, server: string): Promise<AsyncDisposable> {
  const options = [
    ...[
      "--keep-in-foreground",
      "--log-facility=-",
      "--port=0",
      "--interface=lan",
      "--bind-interfaces",
      "--leasefile-ro",
    ],
    ...["--conf-file", "--user=root", "--pid-file", "--no-ping", "--dhcp-authoritative"],
    `--dhcp-range=192.168.7.${ADDRESSES.dhclient},192.168.7.${ADDRESSES.dhclient},1h`,
    `--dhcp-option=3,${CAFE_RESOLVER}`,
    `--dhcp-option=6,${server}`,
    "--dhcp-option=15,lan",
  ];
  const script = 'mount --rbind /dev "$0/dev"; exec chroot "$0" dnsmasq "$@"';
  const argv = ["unshare", "--mount", "sh", "-c", script, await debianRoot(), ...options];
  const child = await lab.host("cafe-router").spawn(argv);
  await child.waitForLine(/DHCP, sockets bound|DHCP, IP range/);
  return child;
}

/** Everything about names that a client could leave: the file, what its manager remembers, and what higgs does. */
export async function namesOf(machine: SystemdMachine, manager: Manager): Promise<string> {
  return await machine.execOrThrow([
    "sh",
    "-c",
    `stat -c '%F %a %U %N' /etc/resolv.conf; cat /etc/resolv.conf; ls -A /etc | grep resolv; ${manager.memory}
     ls /var/lib/higgs/client/journal.json /var/lib/higgs/client/resolv.conf.before /var/lib/higgs/resolv-conf/journal.json 2>/dev/null || :`,
  ]);
}

/** Resolves when the manager has come to rest: what it shows stays the same. */
export async function settled(machine: SystemdMachine, manager: Manager): Promise<string> {
  let last = "";
  return await until(
    async () => {
      const now = await namesOf(machine, manager);
      const isSame = now === last;
      last = now;
      return isSame ? now : null;
    },
    { everyMs: 200, what: `${manager.name} at rest` },
  );
}
