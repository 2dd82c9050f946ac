// A café that hands out addresses by DHCP and router advertisements, with Debian's own programs at both ends.
import type { LabHost } from "../../src/lab/host.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { debianRoot, NETWORK_SETUP } from "./debian-root.ts";
import { until } from "./harness.ts";

/** In memory, so that nothing of it counts as the host's. */
const DEBIAN_DIR = "/tmp/debian";
const ROOT_DIR = `${DEBIAN_DIR}/root`;
/** Configuration that the packages' own scripts of installation would have put there. */
const ETC = ["dhcp", "udhcpc", "rdnssd", "ufw", "default/ufw"];

/** Debian's programs over the host's own /etc, /run and /var/lib: they change the machine as they would where they are installed. */
export async function installDebian(host: LabHost): Promise<void> {
  const script = `set -eu
    lower=$1 dir=${DEBIAN_DIR}
    mkdir -p $dir/upper $dir/work ${ROOT_DIR}
    mount -t overlay -o "lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work" overlay ${ROOT_DIR}
    cd ${ROOT_DIR}/etc
    for name in ${ETC.join(" ")}; do
      [ ! -e "$name" ] || { mkdir -p "/etc/$(dirname "$name")"; cp -a "$name" "/etc/$(dirname "$name")/"; }
    done
    cp ../usr/share/ufw/*.rules ../usr/share/ufw/*.init ../usr/share/ufw/ufw.conf /etc/ufw/
    for name in iptables ip6tables; do
      for tool in "" -restore -save; do ln -sf xtables-nft-multi "../usr/sbin/$name$tool"; done
    done
    mkdir -p /var/lib/dhcp /run/rdnssd
    : > /etc/fstab
    for folder in proc sys dev etc run var/lib tmp; do mount --rbind /$folder ${ROOT_DIR}/$folder; done`;
  await host.execOrThrow(["sh", "-c", script, "install", await debianRoot(NETWORK_SETUP)]);
}

export function inDebian(argv: readonly string[]): readonly string[] {
  return ["chroot", ROOT_DIR, ...argv];
}

export interface DhcpOffer {
  readonly interface: string;
  /** The one address that there is, in a /24. */
  readonly address: string;
  readonly router: string;
  /** Option 6. */
  readonly nameserver: string;
  /** Option 121: prefix and gateway by turns. */
  readonly routes: readonly string[];
  /** Options 58 and 59, seconds. */
  readonly renewS: number;
  readonly rebindS: number;
}

/** Resolves when it listens. It says each message that it gets and sends. */
export async function startDhcpServer(host: LabHost, offer: DhcpOffer): Promise<LabProcess> {
  const options = [
    `option:router,${offer.router}`,
    `option:dns-server,${offer.nameserver}`,
    `option:T1,${offer.renewS}`,
    `option:T2,${offer.rebindS}`,
    ...(offer.routes.length === 0 ? [] : [`121,${offer.routes.join(",")}`]),
  ];
  const server = await host.spawn(
    inDebian([
      ...[
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--port=0",
        "--log-dhcp",
        "--log-facility=-",
      ],
      ...["--no-ping", "--dhcp-authoritative", "--dhcp-leasefile=/tmp/dnsmasq.leases", "--pid-file=/tmp/dnsmasq.pid"],
      ...[`--interface=${offer.interface}`, "--bind-interfaces"],
      `--dhcp-range=${offer.address},${offer.address},255.255.255.0,120s`,
      ...options.map((option) => `--dhcp-option=${option}`),
    ]),
  );
  await server.waitForLine(/sockets bound exclusively/);
  return server;
}

/** dhclient as it is, with less patience: it asks again after a second. */
const DHCLIENT_CONF = `initial-interval 1; backoff-cutoff 2;
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, rfc3442-classless-static-routes;
`;

export type DhcpClient = "dhclient" | "udhcpc";

const CLIENTS: Readonly<Record<DhcpClient, readonly string[]>> = {
  dhclient: [
    "dhclient",
    "-d",
    "-v",
    "-cf",
    "/tmp/dhclient.conf",
    "-pf",
    "/tmp/dhclient.pid",
    "-lf",
    "/tmp/dhclient.leases",
    "eth0",
  ],
  udhcpc: ["busybox", "udhcpc", "-f", "-i", "eth0", "-s", "/etc/udhcpc/default.script"],
};

/** From now on the laptop has what the café's DHCP gives it, and nothing else in IPv4. Resolves with the first lease. */
export async function takeLease(host: LabHost, client: DhcpClient): Promise<LabProcess> {
  await host.execOrThrow([
    "sh",
    "-c",
    "ip -4 addr flush dev eth0; ip -4 route flush dev eth0; rm -f /tmp/dhclient.leases",
  ]);
  await host.writeFile("/tmp/dhclient.conf", DHCLIENT_CONF);
  const running = await host.spawn(inDebian(CLIENTS[client]));
  await until(async () => (await leasedAddress(host)) !== null, { what: "a lease" }).catch((thrown: unknown) => {
    throw new Error(`${client} got no lease: ${running.lines.slice(-20).join(" | ")}`, { cause: thrown });
  });
  return running;
}

export async function leasedAddress(host: LabHost): Promise<string | null> {
  const shown = await host.execOrThrow(["ip", "-4", "-o", "addr", "show", "dev", "eth0"]);
  return /inet ([\d.]+)/.exec(shown)?.[1] ?? null;
}

export interface Advertisement {
  readonly interface: string;
  /** Of a /64, without "::". */
  readonly prefix: string;
  readonly preference: "medium" | "high";
  /** More-specific ones with high preference (RFC 4191). */
  readonly routes: readonly string[];
  /** RDNSS and DNSSL (RFC 8106). */
  readonly names?: { readonly server: string; readonly search: string };
}

/** Router advertisements every few seconds until the host goes. */
export async function advertise(host: LabHost, what: Advertisement): Promise<void> {
  const { names } = what;
  const conf = `interface ${what.interface} {
    AdvSendAdvert on;
    IgnoreIfMissing on;
    MinRtrAdvInterval 3;
    MaxRtrAdvInterval 4;
    AdvDefaultPreference ${what.preference};
    prefix ${what.prefix}::/64 { AdvOnLink on; AdvAutonomous on; };
    ${what.routes.map((route) => `route ${route} { AdvRoutePreference high; };`).join(" ")}
    ${names === undefined ? "" : `RDNSS ${names.server} { }; DNSSL ${names.search} { };`}
  };\n`;
  await host.writeFile("/tmp/radvd.conf", conf);
  await host.execOrThrow(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
  await host.spawn(
    inDebian(["radvd", "-n", "-m", "stderr", "-u", "root", "-C", "/tmp/radvd.conf", "-p", "/tmp/radvd.pid"]),
  );
}

/** A machine that believes routers as a roaming laptop does: more-specific routes, and whom to ask for names. */
export async function believeAdvertisements(host: LabHost): Promise<LabProcess> {
  await host.execOrThrow(["sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128"]);
  return await host.spawn(
    inDebian(["rdnssd", "-f", "-u", "root", "-r", "/run/rdnssd/resolv.conf", "-H", "/etc/rdnssd/merge-hook"]),
  );
}
