// The demo's little internet: a web server, a DNS server, a VPS, a home behind NAT and a café behind NAT.
import type {
  HostSpec,
  LineSpec,
  NatKind,
  RouterSpec,
  Segment,
  ServiceSpec,
  Topology,
  ZoneRecord,
} from "./topology.ts";

export interface SmallInternetOptions {
  /** Whether the home's provider gives it IPv6. Default true. */
  readonly homeIpv6?: boolean;
  /** Whether the café has IPv6, so that a leak in that family can be seen. Default true. */
  readonly cafeIpv6?: boolean;
  readonly homeNat?: NatKind;
  readonly cafeNat?: NatKind;
  /** More of the two routers, such as forwards or `blockUdp`. */
  readonly homeRouter?: Partial<RouterSpec>;
  readonly cafeRouter?: Partial<RouterSpec>;
  /** What the internet side of each router is connected by, and the VPS. */
  readonly homeLine?: LineSpec;
  readonly cafeLine?: LineSpec;
  readonly vpsLine?: LineSpec;
  /** More hosts, made by `homeHost`, `cafeHost`, `internetHost` or by hand. */
  readonly extraHosts?: readonly HostSpec[];
  readonly extraZone?: readonly ZoneRecord[];
}

export const WEB_NAME = "web.lab.example";
export const DNS_NAME = "dns.lab.example";
export const VPS_NAME = "vps.lab.example";
/** The TXT record under this name holds the asker's address. */
export const WHOAMI_NAME = "whoami.lab.example";
export const WEB_PORT = 80;

const INTERNET: Segment = { name: "internet" };
const HOME_LAN: Segment = { name: "home-lan" };
const CAFE_LAN: Segment = { name: "cafe-lan" };
const INTERNET_GATEWAY4 = "203.0.113.1";
const RESOLVER4 = "203.0.113.53";
const HOME_ROUTER4 = "192.168.1.1";
const CAFE_ROUTER4 = "192.168.7.1";

/**
 * IPv4: 203.0.113.0/24 is the internet, 192.168.1.0/24 the home, 192.168.7.0/24 the café.
 * IPv6: the site with the number n has 2001:db8:n::/48, of which ::/64 faces the internet and 1::/64 is its LAN.
 */
export function smallInternet(options: SmallInternetOptions = {}): Topology {
  const homeIpv6 = options.homeIpv6 ?? true;
  const cafeIpv6 = options.cafeIpv6 ?? true;
  const extraHosts = options.extraHosts ?? [];
  const hosts: HostSpec[] = [
    internetHost("web", 80, { services: [{ kind: "web", port: WEB_PORT }] }),
    internetHost("dns", 53, { services: dnsServices(options.extraZone ?? []) }),
    withLine(internetHost("vps", 10), options.vpsLine),
    siteRouter("home-router", HOME_LAN, {
      site: 7,
      lanAddress4: HOME_ROUTER4,
      ipv6: homeIpv6,
      line: options.homeLine,
      router: { nat: options.homeNat ?? "port-restricted", staticTo: "192.168.1.10", ...options.homeRouter },
    }),
    homeHost("home-pc", 10, { ipv6: homeIpv6 }),
    homeHost("home-nas", 20, { ipv6: homeIpv6 }),
    siteRouter("cafe-router", CAFE_LAN, {
      site: 66,
      lanAddress4: CAFE_ROUTER4,
      ipv6: cafeIpv6,
      line: options.cafeLine,
      router: { nat: options.cafeNat ?? "port-restricted", staticTo: "192.168.7.2", ...options.cafeRouter },
    }),
    cafeHost("laptop", 2, { ipv6: cafeIpv6 }),
    ...extraHosts,
  ];
  return { segments: [INTERNET, HOME_LAN, CAFE_LAN], hosts: [internetGateway(hosts), ...hosts] };
}

/** A host with a public address: 203.0.113.n, and 2001:db8:n::n of its own /48. */
export function internetHost(name: string, n: number, more: Partial<HostSpec> = {}): HostSpec {
  return {
    name,
    kind: "host",
    interfaces: [{ name: "eth0", segment: INTERNET.name, ipv4: `203.0.113.${n}/24`, ipv6: [`2001:db8:${n}::${n}/64`] }],
    routes: [
      { to: "default4", via: INTERNET_GATEWAY4 },
      { to: "default6", via: `2001:db8:${n}::1` },
    ],
    nameservers: [RESOLVER4],
    ...more,
  };
}

/** A host on the home's LAN: 192.168.1.n, and 2001:db8:7:1::n where the home has IPv6. */
export function homeHost(name: string, n: number, options: { readonly ipv6?: boolean } = {}): HostSpec {
  return lanHost(name, { segment: HOME_LAN, router4: HOME_ROUTER4, site: 7, n, ipv6: options.ipv6 ?? true });
}

/** A host on the café's LAN: 192.168.7.n, and 2001:db8:66:1::n where the café has IPv6. */
export function cafeHost(name: string, n: number, options: { readonly ipv6?: boolean } = {}): HostSpec {
  return lanHost(name, { segment: CAFE_LAN, router4: CAFE_ROUTER4, site: 66, n, ipv6: options.ipv6 ?? true });
}

interface LanPlace {
  readonly segment: Segment;
  readonly router4: string;
  readonly site: number;
  readonly n: number;
  readonly ipv6: boolean;
}

function lanHost(name: string, place: LanPlace): HostSpec {
  const ipv4 = `${place.router4.replace(/\d+$/, String(place.n))}/24`;
  const ipv6 = place.ipv6 ? [`2001:db8:${place.site}:1::${place.n}/64`] : [];
  const route6 = place.ipv6 ? [{ to: "default6", via: `2001:db8:${place.site}:1::1` }] : [];
  return {
    name,
    kind: "host",
    interfaces: [{ name: "eth0", segment: place.segment.name, ipv4, ipv6 }],
    routes: [{ to: "default4", via: place.router4 }, ...route6],
    nameservers: [place.router4],
  };
}

interface SiteOptions {
  readonly site: number;
  readonly lanAddress4: string;
  readonly ipv6: boolean;
  readonly line: LineSpec | undefined;
  readonly router: Pick<RouterSpec, "nat"> & Partial<RouterSpec>;
}

function siteRouter(name: string, lan: Segment, options: SiteOptions): HostSpec {
  const { site } = options;
  const wan6 = options.ipv6 ? [`2001:db8:${site}::${site}/64`] : [];
  const lan6 = options.ipv6 ? [`2001:db8:${site}:1::1/64`] : [];
  const route6 = options.ipv6 ? [{ to: "default6", via: `2001:db8:${site}::1` }] : [];
  const router: HostSpec = {
    name,
    kind: "router",
    interfaces: [
      { name: "wan", segment: INTERNET.name, ipv4: `203.0.113.${site}/24`, ipv6: wan6 },
      { name: "lan", segment: lan.name, ipv4: `${options.lanAddress4}/24`, ipv6: lan6 },
    ],
    routes: [{ to: "default4", via: INTERNET_GATEWAY4 }, ...route6],
    nameservers: [RESOLVER4],
    router: { wan: "wan", lan: "lan", dnsVia: RESOLVER4, ...options.router },
  };
  return withLine(router, options.line);
}

/** The host on a long line, by its first interface: for a router the one to the internet. */
export function withLine(host: HostSpec, line: LineSpec | undefined): HostSpec {
  if (line === undefined) return host;
  return { ...host, interfaces: host.interfaces.map((link, index) => (index === 0 ? { ...link, line } : link)) };
}

/** The internet's own router: the first hop of everybody in IPv6, and the way to each site's prefix. */
function internetGateway(hosts: readonly HostSpec[]): HostSpec {
  const ipv6: string[] = [];
  const routes: { to: string; via: string }[] = [];
  for (const host of hosts) {
    for (const link of host.interfaces.filter((candidate) => candidate.segment === INTERNET.name)) {
      for (const address of link.ipv6 ?? []) {
        ipv6.push(address.replace(/::[0-9a-f]+\//, "::1/"));
        if (host.kind !== "router") continue;
        const prefix = address.replace(/::.*$/, "::/48");
        routes.push({ to: prefix, via: address.replace(/\/\d+$/, "") });
      }
    }
  }
  return {
    name: "internet",
    kind: "gateway",
    interfaces: [{ name: "eth0", segment: INTERNET.name, ipv4: `${INTERNET_GATEWAY4}/24`, ipv6 }],
    routes,
    nameservers: [RESOLVER4],
  };
}

function dnsServices(extraZone: readonly ZoneRecord[]): readonly ServiceSpec[] {
  const zone: ZoneRecord[] = [
    { name: WEB_NAME, type: "A", data: "203.0.113.80" },
    { name: WEB_NAME, type: "AAAA", data: "2001:db8:80::80" },
    { name: DNS_NAME, type: "A", data: RESOLVER4 },
    { name: DNS_NAME, type: "AAAA", data: "2001:db8:53::53" },
    { name: VPS_NAME, type: "A", data: "203.0.113.10" },
    { name: VPS_NAME, type: "AAAA", data: "2001:db8:10::10" },
    { name: "text.lab.example", type: "TXT", data: "the lab's internet" },
  ];
  return [{ kind: "dns", zone: [...zone, ...extraZone] }];
}
