// The rules of a lab router for nft: NAT of every kind, stateful IPv6, forwarded ports, a DNS forwarder. Pure.
import { withoutLength } from "./topology.ts";
import type { HostSpec, RouterSpec } from "./topology.ts";

interface Wan {
  readonly name: string;
  readonly address: string;
  readonly lan: string;
  readonly lanAddress: string;
}

/** The whole ruleset of a router; empty text for hosts that are none. */
export function routerRuleset(host: HostSpec): string {
  const { router } = host;
  if (router === undefined) return host.kind === "gateway" ? GATEWAY_RULESET : "";
  const wan = wanOf(host, router);
  return [inputTable(router, wan), forwardTable(router, wan), natTable(router, wan)].join("\n");
}

// All of IPv6 passes the gateway on one interface; its redirects would leave routes in the hosts that nobody asked for.
const GATEWAY_RULESET = `table ip6 gateway {
  chain output {
    type filter hook output priority filter; policy accept;
    icmpv6 type nd-redirect drop
  }
}
`;

/**
 * Drops what nobody asked for on the WAN side. Without it, a peer's early packet would be taken by the router itself, and the
 * connection entry that it leaves forces our own flow to another port.
 */
function inputTable(router: RouterSpec, wan: Wan): string {
  const verdict = router.acceptInput === true ? "accept" : "drop";
  return `table inet input {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "${wan.name}" ct state established,related accept
    iifname "${wan.name}" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
    iifname "${wan.name}" ${verdict}
  }
}
`;
}

/** IPv6 has no NAT: the LAN's addresses are public, and the filter lets in only answers. IPv4 filters as the NAT kind says. */
function forwardTable(router: RouterSpec, wan: Wan): string {
  const blockUdp = router.blockUdp === true ? `    oifname "${wan.name}" meta l4proto udp udp dport != 53 drop\n` : "";
  const seen =
    router.nat === "address-restricted"
      ? `  set seen { type ipv4_addr . inet_service . ipv4_addr; flags dynamic,timeout; timeout 300s; size 65535; }\n`
      : "";
  return `table inet forward {
${seen}  chain forward {
    type filter hook forward priority filter; policy accept;
${blockUdp}${router.nat === "address-restricted" ? ADDRESS_RESTRICTED_OUT(wan) : ""}    ct state established,related accept
    iifname "${wan.name}" meta nfproto ipv6 drop
    iifname "${wan.name}" ct status dnat ${router.nat === "address-restricted" ? "jump restricted" : "accept"}
    iifname "${wan.name}" drop
  }
${router.nat === "address-restricted" ? ADDRESS_RESTRICTED_IN : ""}}
`;
}

const ADDRESS_RESTRICTED_OUT = (wan: Wan): string =>
  `    oifname "${wan.name}" meta nfproto ipv4 meta l4proto udp update @seen { ip saddr . udp sport . ip daddr }\n`;

const ADDRESS_RESTRICTED_IN = `  chain restricted {
    meta l4proto udp ip daddr . udp dport . ip saddr @seen accept
    meta l4proto tcp accept
  }
`;

function natTable(router: RouterSpec, wan: Wan): string {
  const cone = router.nat === "full-cone" || router.nat === "address-restricted";
  return `table ip nat {
${cone ? CONE_MAP : ""}  chain pre {
    type nat hook prerouting priority dstnat; policy accept;
${[...dnsLines(router, wan), ...forwardLines(router, wan), ...inboundLines(router, wan)].map(indent).join("")}  }
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
${[...hairpinLines(router, wan), ...outboundLines(router, wan)].map(indent).join("")}  }
}
`;
}

// The key is the port before the NAT: two LAN hosts that send from the same port overwrite each other.
const CONE_MAP = `  map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65535; }
`;

function dnsLines(router: RouterSpec, wan: Wan): readonly string[] {
  if (router.dnsVia === undefined) return [];
  return [
    `iifname "${wan.lan}" ip daddr ${wan.lanAddress} udp dport 53 dnat to ${router.dnsVia}`,
    `iifname "${wan.lan}" ip daddr ${wan.lanAddress} tcp dport 53 dnat to ${router.dnsVia}`,
  ];
}

function forwardLines(router: RouterSpec, wan: Wan): readonly string[] {
  const from = inboundMatch(router, wan);
  return (router.forwards ?? []).map(
    (forward) => `${from} ${forward.protocol} dport ${forward.port} dnat to ${forward.to}:${forward.toPort}`,
  );
}

function inboundLines(router: RouterSpec, wan: Wan): readonly string[] {
  const from = inboundMatch(router, wan);
  switch (router.nat) {
    case "full-cone":
    case "address-restricted":
      return [`${from} meta l4proto udp dnat ip to udp dport map @cone`];
    case "static":
      return router.staticTo === undefined ? [] : [`${from} dnat to ${router.staticTo}`];
    case "none":
    case "port-restricted":
    case "port-restricted-non-preserving":
    case "symmetric-sequential":
    case "symmetric-address":
    case "symmetric-random":
    case "symmetric-pool":
      return [];
  }
}

/** With hairpin the LAN's own packets to the public address count as inbound too. */
function inboundMatch(router: RouterSpec, wan: Wan): string {
  return router.hairpin === true ? `ip daddr ${wan.address}` : `iifname "${wan.name}"`;
}

function hairpinLines(router: RouterSpec, wan: Wan): readonly string[] {
  return router.hairpin === true ? [`iifname "${wan.lan}" oifname "${wan.lan}" ct status dnat masquerade`] : [];
}

function outboundLines(router: RouterSpec, wan: Wan): readonly string[] {
  const out = `oifname "${wan.name}"`;
  const masquerade = `${out} masquerade`;
  switch (router.nat) {
    case "none":
      return [];
    case "static":
    case "port-restricted":
      return [masquerade];
    case "full-cone":
    case "address-restricted":
      return [`${out} meta l4proto udp update @cone { udp sport : ip saddr . udp sport }`, masquerade];
    case "port-restricted-non-preserving":
      return [`${out} meta l4proto udp masquerade to :30000-60000`, masquerade];
    case "symmetric-random":
      return [`${out} masquerade fully-random`];
    case "symmetric-pool":
      return [`${out} meta l4proto udp masquerade to :30000-30999 fully-random`, masquerade];
    case "symmetric-sequential":
      return [`${out} meta l4proto udp snat ip to numgen inc mod 2000 map { ${ports(wan, 40_000, 2000)} }`, masquerade];
    case "symmetric-address":
      return [
        `${out} meta l4proto udp snat ip to jhash ip saddr . udp sport . ip daddr mod 512 map { ${ports(wan, 20_000, 512)} }`,
        masquerade,
      ];
  }
}

function ports(wan: Wan, first: number, count: number): string {
  return Array.from({ length: count }, (_, index) => `${index} : ${wan.address} . ${first + index}`).join(", ");
}

function wanOf(host: HostSpec, router: RouterSpec): Wan {
  const address = (name: string): string => {
    const link = host.interfaces.find((candidate) => candidate.name === name);
    return withoutLength(link?.ipv4 ?? "0.0.0.0/0");
  };
  return { name: router.wan, address: address(router.wan), lan: router.lan, lanAddress: address(router.lan) };
}

function indent(line: string): string {
  return `    ${line}\n`;
}
